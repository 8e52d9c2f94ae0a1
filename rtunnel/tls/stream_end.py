"""TLS that ends here, between a carrier's stream and whoever serves what is in it.

    carrier <-- IStream -- TlsEnd -- IStream --> IStreamUser
            bytes of TLS            plain bytes

Like a carrier, it passes back-pressure on in both directions, and each direction has its own end: close_notify. Bytes
of TLS count as delivered when the plain bytes in them do, so it queues nothing of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from rtunnel import delayed_calls
from rtunnel.errors import Code
from rtunnel.relay.interfaces import IStream, IStreamUser
from rtunnel.relay.sockets import text_prefix
from rtunnel.tls.openssl import Messages, Reader, renew_memory
from rtunnel.tls.policy import ACME
from rtunnel.tls.turns import Turn, Turns
from rtunnel.tls.web_server import explain_web_failure
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.wire.web.client_hello import DECODE_ERROR, BadHello, ClientHello, HelloReader, fatal_alert

#: Seconds that a visitor has for the handshake, and to close the connection after an alert.
HANDSHAKE_TIMEOUT, LINGER = 20.0, 5.0
#: What the TLS of a stream takes in memory, in bytes.
COST = 32 * 1024

_READ = 32768
_reader = Reader(256 * 1024)
_log = DebugLog()


class IHost(Protocol):
    """Has the certificates of one or more names."""

    def context_for(self, hello: ClientHello) -> SSL.Context | int:
        """Return what a connection is to be made with, or the alert that refuses it."""


#: Serves a stream of plain bytes. It is given the stream, the name in the ClientHello (may be empty), and the visitor's
#: address as logs show it; and returns the stream's user.
Serve = Callable[[IStream, str, str], IStreamUser]


@implementer(IStream, IStreamUser)
class TlsEnd:
    """The server's end of TLS on one stream.

    :param visitor: the visitor's address, as logs show it.
    :param turns: in which handshakes are done.
    :param on_over: called once with this object when both directions have ended, or the stream broke.
    :ivar touched: set whenever bytes pass; the search for idle connections clears it.
    :ivar bytes_received: of TLS, to the visitor; see :class:`~rtunnel.traffic.accounts.IRelay`.
    """

    #: See :class:`~rtunnel.relay.socket_end.SocketEnd`: there is no socket that could be taken.
    is_at_rest = False

    def __init__(
        self,
        host: IHost,
        serve: Serve,
        visitor: str,
        turns: Turns,
        clock: IReactorTime,
        on_over: Callable[[TlsEnd], None],
    ) -> None:
        self.touched = True
        self.reason = ""
        self._host = host
        self._serve: Serve | None = serve
        self._visitor = visitor
        self._clock = clock
        self._on_over = [on_over]
        self._carrier: IStream | None = None
        self._user: IStreamUser | None = None
        self._connection: Any = None
        self._messages: Messages | None = None
        self._hello: HelloReader | None = HelloReader()
        self._name = ""
        # The visitor's close_notify has come; ours has gone out.
        self._ended = self._finished = self._paused = False
        # All that is left is that the visitor closes the connection.
        self._closing = False
        # Plain bytes that the user has not delivered, and bytes of TLS that are not reported as delivered.
        self._waiting = self._owed = self.bytes_received = self.bytes_sent = 0
        self._turn: Turn | None = Turn(turns, text_prefix(visitor), False, self._take)
        self._turn.transport = self
        self._timer: IDelayedCall | None = clock.callLater(HANDSHAKE_TIMEOUT, self._too_slow)

    # The part of SocketEnd that carriers use

    @property
    def is_lost(self) -> bool:
        """Whether it is over."""
        return not self._on_over

    @property
    def is_connected(self) -> bool:
        """Whether it is not over."""
        return not self.is_lost

    def call_when_lost(self, call: Callable[[], None]) -> None:
        """Call *call* too when it is over."""
        self._on_over.append(lambda _end: call())

    def attach(self, stream: IStream) -> None:
        """Use *stream* from now on."""
        self._carrier = stream

    def abort(self) -> None:
        """Reset both sides."""
        user = self._user
        self.reset(Code.CONNECTION_LOST, "the connection was closed")
        if user is not None:
            user.was_reset(Code.CONNECTION_LOST, "the connection was closed")

    cut = abortConnection = abort

    def pauseProducing(self) -> None:
        """Do nothing: what waits for its turn counts as not delivered, so the carrier lets no more come."""

    resumeProducing = pauseProducing

    # From the carrier, see IStreamUser

    def data_received(self, data: bytes) -> None:
        """Take bytes of TLS."""
        self.touched = True
        self.bytes_sent += len(data)
        if self._carrier is None:
            return
        if self._closing:
            self._carrier.delivered(len(data))
            return
        self._owed += len(data)
        if self._turn is not None:
            self._turn.received(data)
        else:
            self._connection.bio_write(data)
            self._read()

    def finished(self) -> None:
        """The visitor sends no more. Without close_notify before, somebody may have cut the connection."""
        if self._user is None or self._finished:
            # After our own end it does not matter: most clients just close.
            self._pass_on_end()
            if not (self._finished or self._closing) and self._carrier is not None:
                self._carrier.finish()
            self._over()
        elif not self._ended:
            user, why = self._user, "the visitor's TLS has no end"
            self.reset(Code.CONNECTION_LOST, why)
            user.was_reset(Code.CONNECTION_LOST, why)

    def closed(self) -> None:
        """The stream is over in both directions."""
        user = self._user
        self._over()
        if user is not None:
            user.closed()

    def was_reset(self, code: str, message: str) -> None:
        """The stream broke."""
        self.reason = self.reason or code
        user = self._user
        self._over()
        if user is not None:
            user.was_reset(code, message)

    def pause(self) -> None:
        """Let the user write no more."""
        self._paused = True
        if self._user is not None:
            self._user.pause()

    def resume(self) -> None:
        """Let the user write again."""
        self._paused = False
        if self._user is not None:
            self._user.resume()

    def buffered(self) -> int:
        """See :class:`IStreamUser`."""
        return COST + (0 if self._user is None else self._user.buffered())

    # From the user, see IStream

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        self.touched = True
        if self._connection is None or self._finished or self._closing or not data:
            return
        try:
            self._connection.send(data)
        except SSL.Error as error:
            self._break(error)
        else:
            self._flush()

    def finish(self) -> None:
        """Send close_notify, and nothing more."""
        if self._connection is None or self._finished or self._closing:
            return
        self._finished = True
        try:
            self._connection.shutdown()
        except SSL.Error as error:
            self._break(error)
            return
        self._flush()
        if self._carrier is not None:
            self._carrier.finish()
        if self._ended:
            self._over()

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """End both directions without close_notify, so that the visitor does not take a part for the whole."""
        self.reason = self.reason or code
        carrier = self._carrier
        self._over()
        if carrier is not None:
            carrier.reset(code, message, behind=behind)

    def delivered(self, count: int) -> None:
        """Report bytes of TLS as delivered, as many as plain ones, and the rest behind the last of them."""
        self._waiting -= count
        self._report(count)

    def _report(self, count: int) -> None:
        count = self._owed if self._waiting <= 0 else min(count, self._owed)
        if count and self._carrier is not None:
            self._owed -= count
            self._carrier.delivered(count)

    # The handshake

    def _take(self, data: bytes) -> None:
        """Take bytes of the handshake: it is their turn."""
        if self._hello is not None:
            try:
                hello = self._hello.take(data)
            except BadHello as error:
                self._refuse(DECODE_ERROR if error.is_tls else None)
                return
            if hello is None:
                self._report(0)
                return
            data, self._hello = bytes(self._hello.raw), None
            self._name = hello.name or ""
            chosen = self._host.context_for(hello)
            if isinstance(chosen, int):
                self._refuse(chosen)
                return
            self._connection = SSL.Connection(chosen, None)
            self._connection.set_accept_state()
        self._connection.bio_write(data)
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            self._flush()
            self._report(0)
        except SSL.Error as error:
            self._break(error)
        else:
            self._flush()
            self._shook_hands()

    def _shook_hands(self) -> None:
        self._leave_turns()
        renew_memory(self._connection)
        self._messages = Messages(self._connection)
        serve, self._serve = self._serve, None
        if self._connection.get_alpn_proto_negotiated() == ACME:
            # The CA has seen the certificate, which is all that it wants.
            self._finished = True
            self._connection.shutdown()
            self._flush()
            self._close()
            return
        assert serve is not None
        user = serve(self, self._name, self._visitor)
        if self.is_lost or self._closing:
            return
        self._user = user
        if self._paused:
            user.pause()
        self._read()

    def _refuse(self, alert: int | None) -> None:
        """Send an alert in place of a ServerHello; None: it would not be understood."""
        if alert is not None and self._carrier is not None:
            self._carrier.write(fatal_alert(alert))
        self._close()

    def _too_slow(self) -> None:
        self._timer = None
        self.reset(Code.TIMEOUT, "the TLS handshake takes too long")

    def _leave_turns(self) -> None:
        if self._turn is not None:
            turn, self._turn = self._turn, None
            turn.leave()
        delayed_calls.cancel(self._timer)
        self._timer = None

    # Afterwards

    def _read(self) -> None:
        """Pass on what can be read."""
        pieces = []
        error: SSL.Error | None = None
        try:
            while True:
                pieces.append(_reader.read(self._connection))
                pieces.append(self._connection.recv(_READ))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._ended = True
        except SSL.Error as failure:
            error = failure
        plain = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._flush()
        if plain and self._user is not None:
            self._waiting += len(plain)
            self._user.data_received(plain)
        if self._connection is None:
            return
        if error is not None or (self._messages is not None and self._messages.are_too_many):
            self._break(error)
        elif self._ended:
            self._pass_on_end()
            if self._finished:
                self._over()
        self._report(0)

    def _pass_on_end(self) -> None:
        user, self._ended = self._user, True
        if user is not None:
            user.finished()

    def _flush(self) -> None:
        pieces = []
        try:
            while True:
                pieces.append(self._connection.bio_read(_READ))
        except SSL.Error:
            pass  # there is no more
        if pieces and self._carrier is not None:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.bytes_received += len(data)
            self._carrier.write(data)

    def _break(self, error: SSL.Error | None) -> None:
        """Send the alert, and tell the user that the stream broke."""
        self.reason, why = Code.PROTOCOL, explain_web_failure(error)
        if DebugLog.is_wanted:
            _log.debug("visitor {visitor} of {name}: {why}", visitor=self._visitor, name=self._name or "?", why=why)
        self._flush()
        user = self._user
        self._close()
        if user is not None:
            user.was_reset(Code.PROTOCOL, why)

    def _close(self) -> None:
        """End our direction, and let the visitor see what was said before he is cut off."""
        carrier = self._carrier
        self._leave_turns()
        self._user = self._connection = self._messages = self._serve = self._hello = None
        self._closing = True
        if carrier is None:
            return
        self._waiting = 0
        self._report(0)
        carrier.finish()
        if not self.is_lost:
            self._timer = self._clock.callLater(LINGER, self._cut_off)

    def _cut_off(self) -> None:
        self._timer = None
        self.reset(Code.CONNECTION_LOST, "the visitor does not close the connection")

    def _over(self) -> None:
        self._leave_turns()
        self._waiting = 0
        self._report(0)
        # No circles.
        self._carrier = self._user = self._connection = self._messages = self._serve = self._hello = None
        calls, self._on_over = self._on_over, []
        for call in calls:
            call(self)
