"""The second signatures of the two ends of a connection: see :mod:`rtunnel.tls.hedge.second`.

They travel in BIND. With MAYO-5, signing takes 0.9 ms and checking 0.5 ms, and on a processor for which liboqs has
nothing of its own 16 and 9 ms, so both are done in threads: a host that starts again has all of its clients at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.errors import ConfigError, one_line
from rtunnel.tls.hedge.schemes import SCHEMES
from rtunnel.tls.hedge.second import SecondKey, check_second, second_of
from rtunnel.wire.webrtc.sealed_keys import Side

#: Calls a function without arguments somewhere; the Deferred fires with its result.
Run: TypeAlias = Callable[[Callable[[], Any]], Deferred[Any]]
#: Why an end is refused: a sentence for it, and one for this end's log, which may name what is missing here.
Why: TypeAlias = tuple[str, str]


class SecondSignatures:
    """What an end proves, and what it demands.

    :param side: which end this is.
    :param key: its second key; None: it has none.
    :param run: calls what takes long.
    :ivar name: of the scheme with which the other end has signed; empty: with none, or not yet.
    :ivar is_awaited: whether the certificate of the other end demands a second signature.
    :ivar is_unchecked: whether there was one that this end cannot check, and it went on without.
    """

    log = Logger()

    def __init__(self, side: Side, key: SecondKey | None, run: Run) -> None:
        self._side = side
        self._key = key
        self._run = run
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

    def prove(self, then: Callable[[bytes], None]) -> None:
        """Call *then* with what this end sends; empty, and at once: it has no second key."""
        if self._key is None:
            then(b"")
        else:
            self._finish(self._run(partial(self._key.prove, self._exported, self._side)), then)

    def check(self, proof: bytes, is_open: bool, then: Callable[[Why | None], None]) -> None:
        """Check what the other end has sent, which may be nothing. Call *then* with None, or why it is refused.

        :param is_open: whether to go on, with a line in the log, if this machine cannot check it.
        """
        if not self.is_awaited:
            then(None)
            return
        assert self._certificate is not None
        done = self._run(partial(check_second, self._certificate, self._exported, self._side.other, proof))
        done.addCallbacks(self._right, partial(self._wrong, is_open))
        self._finish(done, then)

    def _finish(self, done: Deferred[Any], then: Callable[[Any], None]) -> None:
        done.addCallback(then)
        # It ends by the time-out of the handshake then.
        done.addErrback(lambda failure: self.log.failure("with a second key", failure))

    def _right(self, name: str) -> None:
        self.name = name

    def _wrong(self, is_open: bool, failure: Failure) -> Why | Failure | None:
        error = failure.value
        if isinstance(error, ConfigError):
            return self._cannot(is_open, str(error))
        return (str(error), f"it is refused: {one_line(str(error))}") if isinstance(error, ValueError) else failure

    def _cannot(self, is_open: bool, error: str) -> Why | None:
        assert self._certificate is not None
        name, _ = second_of(self._certificate) or ("", b"")
        kind = f" ({name})" if name in SCHEMES else " of a newer kind"
        why = f"the {self._side.other}'s certificate names a second key{kind}, which this {self._side} cannot check"
        if not is_open:
            return why.replace("this", "the"), f"it is refused: {one_line(f'{why}: {error}')}"
        self.is_unchecked = True
        self.log.warn("{why}, and goes on without, as it is open: {error}", why=why, error=one_line(error))
        return None
