"""KEYS of the two ends of a control channel, before TLS begins there (docs/wire.rst, "Sealed peer connections").

    client    KEYS, one message, or pieces if there are hedges -->    host
              <-- KEYS, likewise

With hedges the keys are made in a thread. Bytes of TLS that come meanwhile wait, as an end sends its KEYS before them.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.tls.hedge.keys import Hedges
from rtunnel.wire.data.hedges import KeyPieces, cut
from rtunnel.wire.data.keys import ClientAgreement, Root, ServerAgreement, client_length, server_length, wish
from rtunnel.wire.webrtc.sealed_keys import Side


class ExchangeUser(Protocol):
    """Is told how the exchange fares; see :class:`rtunnel.rtc.sealed.session.SealedSession`."""

    def send_keys(self, message: bytes) -> None:
        """Send a message with KEYS, or a piece of it."""

    def keys_sent(self, waiting: list[bytes]) -> None:
        """Take note that TLS can begin.

        :param waiting: bytes of TLS that have come before.
        """

    def keys_failed(self, why: str, *, is_ours: bool) -> None:
        """Take note that there will be no keys.

        :param is_ours: whether this end could not make them; if not, the other end has sent bad ones.
        """


class KeyExchange:
    """One end of the exchange.

    :param side: which end.
    :param hedges: what is mixed in beside X25519 and ML-KEM; the other end has announced the same.
    :ivar has_come: whether anything of the other end's KEYS has.
    :ivar digest: SHA-256 of the client's KEYS and the host's; empty before both are there.
    """

    log = Logger()

    def __init__(self, side: Side, hedges: Hedges, user: ExchangeUser) -> None:
        self._is_client = side is Side.CLIENT
        self._hedges = hedges
        self._user: ExchangeUser | None = user
        self._pieces: KeyPieces | None = None
        if hedges:
            self._pieces = hedges.server_pieces() if self._is_client else hedges.client_pieces()
        self._agreement: ClientAgreement | ServerAgreement | None = None
        self._own = self._theirs = b""
        self._is_sent = self._is_whole = self.has_come = False
        self._waiting: list[bytes] = []
        self.digest = b""

    @property
    def longer(self) -> int:
        """How many bytes the other end's KEYS has more than without hedges."""
        length = server_length if self._is_client else client_length
        return length(self._hedges.names) - length()

    @property
    def held(self) -> int:
        """How many bytes the other end has made this one hold."""
        pieces = self._pieces.held if self._pieces is not None else 0
        return pieces + len(self._theirs) + sum(map(len, self._waiting))

    def begin(self) -> None:
        """Make and send KEYS, if this is the client."""
        if not self._is_client:
            return
        if self._hedges:
            self._hedges.agree().addCallback(self._use).addErrback(self._lack)
        else:
            self._use(ClientAgreement(wish()))

    def take(self, message: bytes) -> bool:
        """Take a message. Return whether nothing else need be done with it; if not, it is for TLS.

        :raises ValueError: it is not the KEYS that belongs there.
        """
        if not self._is_whole:
            self.has_come = True
            whole = message if self._pieces is None else self._pieces.take(message)
            if whole is not None:
                self._is_whole = True
                self._take_whole(whole)
            return True
        if not self._is_sent:
            self._waiting.append(message)
        return not self._is_sent

    def _take_whole(self, payload: bytes) -> None:
        if self._is_client:
            self._theirs = payload
            self._note_both()
        elif self._hedges:
            self._theirs = payload
            self._hedges.respond(payload).addCallback(self._use).addErrback(self._lack)
        else:
            agreement = ServerAgreement(payload, wish())
            self._theirs = payload
            self._use(agreement)

    def _use(self, agreement: ClientAgreement | ServerAgreement) -> None:
        user = self._user
        if user is None:
            return
        self._agreement = agreement
        self._own = agreement.message
        for message in cut(self._own) if self._hedges else (self._own,):
            user.send_keys(message)
        self._is_sent = True
        self._note_both()
        waiting, self._waiting = self._waiting, []
        user.keys_sent(waiting)

    def _lack(self, failure: Failure) -> None:
        user = self._user
        if user is None:
            return
        if failure.check(ValueError) and not self._is_client:
            user.keys_failed(failure.getErrorMessage(), is_ours=False)
            return
        self.log.failure("the keys of --hedge cannot be made", failure)
        user.keys_failed("the keys of --hedge cannot be made; the log says why", is_ours=True)

    def _note_both(self) -> None:
        """Note that both are there, if they are. A host need not keep the client's, which is long, any more."""
        if not self._is_sent or not self._is_whole:
            return
        client, host = (self._own, self._theirs) if self._is_client else (self._theirs, self._own)
        self.digest = sha256(client + host).digest()
        if not self._is_client:
            self._theirs = b""

    def finish(self, exported: bytes) -> Root:
        """Return the root, and forget all else.

        :param exported: what TLS gives, when both KEYS are there.
        :raises ValueError: the host's KEYS is malformed.
        """
        agreement, theirs = self._agreement, self._theirs
        self._agreement, self._own, self._theirs = None, b"", b""
        if isinstance(agreement, ClientAgreement):
            return agreement.finish(theirs, exported)
        assert agreement is not None
        return agreement.finish(exported)

    def forget(self) -> None:
        """Drop everything: the connection is over."""
        self._agreement = None
        self._own = self._theirs = b""
        self._waiting = []
        self._pieces = None
        # No reference cycles.
        forgotten: Any = None
        self._user = forgotten
