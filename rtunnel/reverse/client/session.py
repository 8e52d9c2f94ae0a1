"""The client's end of one link: asks for tunnels, and dials the local service for each visitor."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel import delayed_calls
from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import tune_link
from rtunnel.reverse.carriers.link_protocol import LinkStream
from rtunnel.reverse.client.asking import AskingSession
from rtunnel.reverse.client.interfaces import IDialler
from rtunnel.reverse.client.tunnel import Tunnel
from rtunnel.reverse.client.wanted import WantedTunnels
from rtunnel.reverse.settings import ClientSettings
from rtunnel.tls.messages import limit_messages
from rtunnel.traffic.accounts import LINK
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import do_all
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire import events
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.messages import DIRECT
from rtunnel.wire.opening import read_opening

if TYPE_CHECKING:
    from rtunnel.tls.stream_end import TlsEnd

#: Seconds without an answer to HELLO after which the server is taken for a reference server.
SILENT_AFTER = 3.0
#: Seconds for which visitors of tunnels that were given up are taken, if the server does not say that it knows.
MOST_WITHDRAWAL = 3.0
#: How many log lines of one kind visitors can cause in ten seconds.
MOST_ALIKE = 5


class ClientSession(AskingSession):
    """One link, from connection to loss.

    :ivar log_limiter: for log lines that visitors can cause.
    :ivar ended: fires with the reason when the connection is lost.
    """

    log = Logger()
    owner_says_why = True
    link: ClientLink

    def __init__(
        self,
        settings: ClientSettings,
        link: ClientLink,
        reactor: Any,
        visitors: Visitors,
        dialler: IDialler,
        wanted: WantedTunnels,
    ) -> None:
        super().__init__(settings, link, reactor, visitors, dialler, wanted)
        self.log_limiter = LogLimiter(self.log, reactor, most=MOST_ALIKE)
        self.admitted = "server"
        if settings.via is not None:
            # The connection itself leads to the proxy.
            self.peer_name = str(settings.server)
        self._silence: IDelayedCall | None = None
        self.ended: Deferred[str] = Deferred()
        self._handlers |= {
            events.Established: self._established,
            events.StreamOpened: self._stream_opened,
        }

    def connectionMade(self) -> None:
        """Say HELLO and ask for the first tunnel; the others wait for the answer."""
        limit_messages(self.transport)
        self._offer_keys()
        self._ask_for_all()
        self._held = b""
        super().connectionMade()
        tune_link(self.transport, self.link.limits.dead_after)
        self._silence = self.clock.callLater(SILENT_AFTER, self._server_is_silent)

    def dataReceived(self, data: bytes) -> None:
        """Check that the other end is a tunnel server. From then on, pass all bytes to the link."""
        self._held += data
        opening = read_opening(self._held, self.link.limits.max_frame, data_connections=False)
        if opening is None:
            return
        self.dataReceived = super().dataReceived  # type: ignore[method-assign]
        if opening.problem:
            self.fail(Code.PROTOCOL, opening.problem)
        else:
            self.dataReceived(self._held)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Reset the streams, and report why the link is lost."""
        delayed_calls.cancel(self._silence)
        try:
            do_all([self._stop_asking, self._close_data, partial(super().connectionLost, reason)])
        finally:
            # Whatever happens, the service dials again.
            self.ended.callback(self.why_lost or reason_of(reason))

    def _tick(self) -> None:
        do_all([super()._tick, self._tick_data, self.log_limiter.tick, self.memory.tick, self._look_at_files])

    def _look_at_files(self) -> None:
        self._dialler.look_at_files()
        server = self.identity
        if server is None or self.link.is_closed:
            return
        if why := self._dialler.why_void(server):
            self.fail(Code.UNAUTHORIZED, why)
        elif not self.link.stream_count and self._dialler.has_later(self.transport.certificate):  # type: ignore[attr-defined]
            self.why_lost = "its certificate expires soon, and the files have another"
            self.close(Code.SHUTTING_DOWN, "the client has another certificate")

    @property
    def payer(self) -> str:
        """See :class:`LinkProtocol`."""
        return f"the link to {self.peer_name}"

    # Events of the link

    def _established(self, event: events.Established) -> None:
        theirs = () if event.peer is None else event.peer.hedge
        if why := self._hedges.why_different(theirs, is_client=True):
            self.fail(Code.NOT_SUPPORTED, why)
            return
        if event.peer is None:
            self._say_reference_tunnels()
            return
        self.was_useful = True
        self._wanted.answered.add(str(self._settings.server))
        self._adopt()
        self.link.ping(self.clock.seconds())
        for tunnel in self._tunnels.values():
            self._say_state(tunnel, only_if_down=True)
        self._info("connected to {peer} ({agent})", agent=event.peer.agent or "unnamed")
        if self._settings.data_plane == "direct" and DIRECT not in self.link.capabilities:
            self._warn("server {peer} knows no data connections: visitors go by the link")
        self.sync()
        self._send_hedged_keys()

    def _link_failed(self, event: events.LinkFailed) -> None:
        if event.code in (Code.UNAUTHORIZED, Code.LIMIT):
            # Dial it again, but with a growing wait: it may refuse many others too.
            self.was_useful = False
        super()._link_failed(event)

    def _stream_opened(self, event: events.StreamOpened) -> None:
        tunnel = self._tunnels[event.tunnel]
        end: SocketEnd | TlsEnd
        if tunnel.tls is None or self._refuses:
            end = SocketEnd(partial(self._service_accepted, tunnel, event.visitor), self._visitors.discard)
        else:
            end = self.end_tls(tunnel, event.visitor)
        stream = LinkStream(self, event.stream, end)
        end.attach(stream)
        if self._refuses:
            stream.reset(Code.SHUTTING_DOWN, "the client is going down")
            return
        tunnel.serve(end, self._visitors, event.visitor, LINK)
        self.log.debug(
            "visitor {visitor} of {tunnel}: stream {stream}",
            visitor=event.visitor or "unknown",
            tunnel=tunnel.name,
            stream=event.stream.conn_id,
        )
        if isinstance(end, SocketEnd):
            end.dial(tunnel.endpoint_for(event.visitor), lambda failure: self.dial_failed(tunnel, failure))

    def _service_accepted(self, tunnel: Tunnel, visitor: str, end: SocketEnd) -> None:
        if header := tunnel.header(visitor):
            end.transport.write(header)
        self.dialled(tunnel)

    def end_tls(self, service: Tunnel, visitor: str) -> TlsEnd:
        """Return what ends the TLS of a visitor; see :class:`TlsEnd`."""
        assert service.tls is not None
        from rtunnel.tls.stream_end import TlsEnd

        serve = partial(self._dialler.tls_hosts.https.serve, self, service)
        return TlsEnd(service.tls, serve, visitor, self._dialler.tls_hosts.turns, self.clock, self._visitors.discard)

    def service_of(self, number: int) -> Tunnel | None:
        """Return the tunnel with this number, if visitors may use it."""
        return self._tunnels.get(number) if self.link.takes(number) and not self._refuses else None

    def dialled(self, tunnel: Tunnel) -> None:
        """Note that the service accepted a visitor."""
        if tunnel.watch is not None:
            tunnel.watch.answered()

    def dial_failed(self, tunnel: Tunnel, failure: Failure) -> None:
        """Note that the service did not accept a visitor."""
        # Without an order, members of a group refuse those who look for answers to challenges.
        is_known = tunnel.settings.answers_challenges or (tunnel.watch is not None and tunnel.watch.failed(failure))
        log = self.log.debug if is_known else self.log_limiter.warn
        log(
            "{tunnel}: local service {local} cannot be reached: {error}",
            tunnel=tunnel.name,
            local=tunnel.settings.local,
            error=reason_of(failure),
        )
