"""The second signatures of the two ends of a connection: see :mod:`rtunnel.tls.hedge.second`.

They travel in BIND. Signing takes up to 0.9 ms and checking 0.5 ms (both with MAYO-5), less than what the handshake
before them takes, so neither has a thread.
"""

from __future__ import annotations

from cryptography import x509
from twisted.logger import Logger

from rtunnel.errors import ConfigError, one_line
from rtunnel.tls.hedge.schemes import SCHEMES
from rtunnel.tls.hedge.second import SecondKey, check_second, second_of
from rtunnel.wire.webrtc.sealed_keys import Side


class SecondSignatures:
    """What an end proves, and what it demands.

    :param side: which end this is.
    :param key: its second key; None: it has none.
    :ivar name: of the scheme with which the other end has signed; empty: with none, or not yet.
    :ivar is_awaited: whether the certificate of the other end demands a second signature.
    :ivar is_unchecked: whether there was one that this end cannot check, and it went on without.
    """

    log = Logger()

    def __init__(self, side: Side, key: SecondKey | None) -> None:
        self._side = side
        self._key = key
        self._certificate: x509.Certificate | None = None
        self._exported = b""
        self.name = ""
        self.is_awaited = self.is_unchecked = False

    def begin(self, certificate: x509.Certificate, exported: bytes) -> None:
        """Take note of what the handshake has shown.

        :param certificate: of the other end.
        :param exported: 32 bytes of the exporter, which both ends sign.
        """
        self._certificate = certificate
        self._exported = exported
        try:
            self.is_awaited = second_of(certificate) is not None
        except ValueError:
            self.is_awaited = True

    @property
    def proof(self) -> bytes:
        """What this end sends; empty: it has no second key."""
        return b"" if self._key is None else self._key.prove(self._exported, self._side)

    def why_not(self, proof: bytes, *, is_open: bool) -> tuple[str, str] | None:
        """Check what the other end has sent, which may be nothing. Return None, or why it is refused.

        :param is_open: whether to go on, with a line in the log, if this machine cannot check it.
        :return: a sentence for the other end, and one for this end's log, which may name what is missing here.
        """
        assert self._certificate is not None
        other = self._side.other
        try:
            self.name = check_second(self._certificate, self._exported, other, proof)
        except ConfigError as error:
            name, _ = second_of(self._certificate) or ("", b"")
            kind = f" ({name})" if name in SCHEMES else " of a newer kind"
            why = f"the {other}'s certificate names a second key{kind}, which this {self._side} cannot check"
            if not is_open:
                return why.replace("this", "the"), f"it is refused: {one_line(f'{why}: {error}')}"
            self.is_unchecked = True
            self.log.warn("{why}, and goes on without, as it is open: {error}", why=why, error=one_line(str(error)))
        except ValueError as error:
            return str(error), f"it is refused: {one_line(str(error))}"
        return None
