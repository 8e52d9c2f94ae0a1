"""The client's end of one link: asks for tunnels, and dials the local service for each visitor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import format_host_port, text_prefix, tune_link
from rtunnel.reverse.carriers.link_protocol import LinkStream
from rtunnel.reverse.client.carrying import CarryingSession
from rtunnel.reverse.client.data_connections import IDialler
from rtunnel.reverse.client.health import when_unhealthy
from rtunnel.reverse.client.tunnel import Tunnel, Watch
from rtunnel.reverse.settings import ClientSettings
from rtunnel.services.files.endpoint import service_endpoint
from rtunnel.services.health import HealthWatch
from rtunnel.tls.messages import limit_messages
from rtunnel.tls.stream_end import TlsEnd
from rtunnel.upkeep.backoff import Backoff
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import do_all
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire import events
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.link import Mode
from rtunnel.wire.messages import DIRECT
from rtunnel.wire.opening import read_opening

#: Seconds without an answer to HELLO after which the server is taken for a reference server.
SILENT_AFTER = 3.0
#: Seconds for which visitors of tunnels that were given up are taken, if the server does not say that it knows.
MOST_WITHDRAWAL = 3.0
#: How many log lines of one kind visitors can cause in ten seconds.
MOST_ALIKE = 5


class ClientSession(CarryingSession):
    """One link, from connection to loss.

    :param dialler: makes data connections.
    :param watches: tell whether the local services answer, in the order of the tunnels. They outlive the link.
    :ivar log_limiter: for log lines that visitors can cause.
    :ivar ended: fires with the reason when the connection is lost.
    :ivar was_useful: whether the server accepted us, so that the next attempt need not wait long.
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
        watches: Sequence[Watch | None],
    ) -> None:
        super().__init__(link, reactor, visitors, dialler, settings.pool)
        self._settings = settings
        self._tunnels = [
            Tunnel(
                number,
                tunnel,
                service_endpoint(reactor, tunnel.local, settings.dial_timeout, tunnel.path),
                Backoff(settings.reconnect_min, settings.reconnect_max),
                watches[number],
                dialler.tls_hosts.host(tunnel),
            )
            for number, tunnel in enumerate(settings.tunnels)
        ]
        self.log_limiter = LogLimiter(self.log, reactor, most=MOST_ALIKE)
        self.admitted = "server"
        if settings.via is not None:
            # The connection itself leads to the proxy.
            self.peer_name = str(settings.server)
        self._refuses = False
        self._silence: IDelayedCall | None = None
        self._said_reference = False
        self.ended: Deferred[str] = Deferred()
        self.was_useful = False
        self._handlers |= {
            events.Established: self._established,
            events.TunnelReady: self._tunnel_ready,
            events.TunnelRefused: self._tunnel_refused,
            events.TunnelNotice: self._tunnel_notice,
            events.StreamOpened: self._stream_opened,
        }

    @property
    def tunnels(self) -> Sequence[Tunnel]:
        """The tunnels, in the order of their numbers."""
        return self._tunnels

    def connectionMade(self) -> None:
        """Say HELLO and ask for the first tunnel; the others wait for the answer."""
        limit_messages(self.transport)
        self._offer_keys()
        for tunnel in self._tunnels:
            self.link.request_tunnel(tunnel.number, tunnel.request)
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
        for call in (self._silence, *(tunnel.retry for tunnel in self._tunnels)):
            if call is not None and call.active():
                call.cancel()
        try:
            do_all([self._rest_watches, self._close_data, partial(super().connectionLost, reason)])
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

    def _server_is_silent(self) -> None:
        """Assume a reference server that has no visitor yet; a late HELLO may still show otherwise."""
        if self.link.mode is Mode.AWAITING:
            self._info("server {peer} does not answer HELLO: the reference protocol is assumed")
            self._say_reference_tunnels()

    def _say_reference_tunnels(self) -> None:
        if self._said_reference:
            return
        self._said_reference = self.was_useful = True
        for tunnel in self._tunnels:
            if tunnel.number or tunnel.settings.protocol != "tcp":
                what = "{tunnel}: not served; a reference server carries one tunnel per link, and only TCP"
                self._warn(what, tunnel=tunnel.name)
                continue
            port = tunnel.settings.remote_port
            tunnel.public = self._public(port) if port else f"the shared port of {self._settings.server}"
            self._watch(tunnel, "{public} is asked for, and a reference server does not say whether it is served")

    def _public(self, port: int) -> str:
        return format_host_port(self._settings.server.host or "server", port)

    @property
    def payer(self) -> str:
        """See :class:`LinkProtocol`."""
        return f"the link to {self.peer_name}"

    # Events of the link

    def _established(self, event: events.Established) -> None:
        if event.peer is None:
            self._say_reference_tunnels()
            return
        self.was_useful = True
        self._adopt()
        self.link.ping(self.clock.seconds())
        for tunnel in self._tunnels:
            self._say_state(tunnel, only_if_down=True)
        self._info("connected to {peer} ({agent})", agent=event.peer.agent or "unnamed")
        if self._settings.data_plane == "direct" and DIRECT not in self.link.capabilities:
            self._warn("server {peer} knows no data connections: visitors go by the link")

    def _link_failed(self, event: events.LinkFailed) -> None:
        if event.code in (Code.UNAUTHORIZED, Code.LIMIT):
            # Dial it again, but with a growing wait: it may refuse many others too.
            self.was_useful = False
        super()._link_failed(event)

    def _tunnel_ready(self, event: events.TunnelReady) -> None:
        tunnel = self._tunnels[event.number]
        tunnel.backoff.reset()
        tunnel.refusal = ""
        if tunnel.is_served:
            return
        tunnel.is_served = True
        self._dialler.tls_hosts.published(tunnel.tls, True)
        tunnel.public_address = event.address
        host, _, port = event.address.rpartition(":")
        wildcard = host in ("", "0.0.0.0", "[::]") and port.isdecimal()
        tunnel.public = self._public(int(port)) if wildcard else event.address
        self._watch(tunnel, "{public} is published")

    def _watch(self, tunnel: Tunnel, what: str) -> None:
        """Log what the tunnel is, and whether its service answers; from then on, when that changes."""
        directory = tunnel.settings.local.directory
        if directory is not None:
            self._info(what + "; visitors see the files in {directory}", public=tunnel.public, directory=str(directory))
            return
        if tunnel.watch is None:
            self._info("{public} is published for UDP", public=tunnel.public)
            return
        has_pages = tunnel.settings.protocol == "http" or tunnel.tls is not None
        meanwhile = "visitors get an error page (502)" if has_pages else "visitors get a reset"
        if isinstance(tunnel.watch, HealthWatch):
            meanwhile = when_unhealthy(tunnel.settings, tunnel.watch, self.link)
            tunnel.watch.on_change = partial(self._say_state, tunnel)
        is_blind = tunnel.settings.protocol == "https" and tunnel.tls is None
        tunnel.watch.start(
            self.log,
            self.log_limiter,
            what + ("; TLS ends at the service, {local}, which" if is_blind else "; the service at {local}"),
            meanwhile,
            public=tunnel.public,
            local=tunnel.settings.local.in_full,
            tunnel=tunnel.name,
        )

    def _say_state(self, tunnel: Tunnel, *, only_if_down: bool = False) -> None:
        """Tell the server whether a service passes its health checks."""
        watch = tunnel.watch
        if isinstance(watch, HealthWatch) and not (only_if_down and watch.is_ready):
            self.link.say_state(tunnel.number, is_ready=watch.is_ready, why=watch.problem)
            self.flush()

    def _tunnel_refused(self, event: events.TunnelRefused) -> None:
        """Ask again without end. Warn when a reason is new, otherwise log at debug level."""
        if not self.link.is_extended or self._draining:
            return
        tunnel = self._tunnels[event.number]
        tunnel.is_served = False
        self._dialler.tls_hosts.published(tunnel.tls, False)
        if tunnel.watch is not None:
            tunnel.watch.stop()
        wait = tunnel.backoff.next_wait()
        tunnel.retry = self.clock.callLater(wait, self._ask_again, tunnel)
        refusal = f"{event.code}: {event.message}"
        level = LogLevel.debug if refusal == tunnel.refusal else LogLevel.warn
        tunnel.refusal = refusal
        self._emit(
            level,
            "{tunnel} refused by the server: {refusal}; next attempt in {wait:.1f} s",
            tunnel=tunnel.name,
            refusal=refusal,
            wait=wait,
        )

    def _tunnel_notice(self, event: events.TunnelNotice) -> None:
        tunnel = self._tunnels[event.number]
        self.log_limiter.warn("{tunnel}: the server says: {notice}", tunnel=tunnel.name, notice=event.message)

    def _ask_again(self, tunnel: Tunnel) -> None:
        self.link.request_tunnel(tunnel.number, tunnel.request)
        self._say_state(tunnel, only_if_down=True)
        self.flush()

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
        self._visitors.add(end, text_prefix(event.visitor), tunnel.number, tunnel.descriptors - 1)
        self.log.debug(
            "visitor {visitor} of {tunnel}: stream {stream}",
            visitor=event.visitor or "unknown",
            tunnel=tunnel.name,
            stream=event.stream.conn_id,
        )
        if isinstance(end, SocketEnd):
            end.dial(tunnel.endpoint, lambda failure: self.dial_failed(tunnel, failure))

    def _service_accepted(self, tunnel: Tunnel, visitor: str, end: SocketEnd) -> None:
        if header := tunnel.header(visitor):
            end.transport.write(header)
        self.dialled(tunnel)

    def end_tls(self, service: Tunnel, visitor: str) -> TlsEnd:
        """Return what ends the TLS of a visitor; see :class:`TlsEnd`."""
        assert service.tls is not None
        serve = partial(self._dialler.tls_hosts.https.serve, self, service)
        return TlsEnd(service.tls, serve, visitor, self._dialler.tls_hosts.turns, self.clock, self._visitors.discard)

    def service_of(self, number: int) -> Tunnel | None:
        """Return the tunnel with this number, if visitors may use it."""
        return self._tunnels[number] if self.link.takes(number) and not self._refuses else None

    def dialled(self, tunnel: Tunnel) -> None:
        """Note that the service accepted a visitor."""
        if tunnel.watch is not None:
            tunnel.watch.answered()

    def dial_failed(self, tunnel: Tunnel, failure: Failure) -> None:
        """Note that the service did not accept a visitor."""
        log = self.log.debug if tunnel.watch is not None and tunnel.watch.failed(failure) else self.log_limiter.warn
        log(
            "{tunnel}: local service {local} cannot be reached: {error}",
            tunnel=tunnel.name,
            local=tunnel.settings.local,
            error=reason_of(failure),
        )

    # The end

    def _rest_watches(self) -> None:
        for tunnel in self._tunnels:
            self._dialler.tls_hosts.published(tunnel.tls, False)
            if tunnel.watch is not None:
                tunnel.watch.stop()

    async def withdraw(self, has_time: Callable[[], bool]) -> None:
        """Take no more visitors. Those being served continue, and so do those whom the server has sent before it knew.

        :param has_time: whether to wait for these.
        """
        self._draining = True
        for tunnel in self._tunnels:
            if tunnel.retry is not None and tunnel.retry.active():
                tunnel.retry.cancel()
        if all(self.link.withdraw_tunnel(tunnel.number) for tunnel in self._tunnels):
            # By the first answer it knows. What it had written to data connections has come by the second.
            liveness, until = self.link.liveness, self.clock.seconds() + MOST_WITHDRAWAL
            known = liveness.pings + 2
            while liveness.answered < known and self.clock.seconds() < until and has_time():
                if not self.connected_now or self.link.is_closed:
                    break
                self.link.ping(self.clock.seconds())
                self.flush()
                await deferLater(self.clock, 0.01)
        self._refuses = True
        self.link.refuse_withdrawn()
        self._rest_watches()
        if self.data is not None:
            self.data.withdraw()
        self.flush()
