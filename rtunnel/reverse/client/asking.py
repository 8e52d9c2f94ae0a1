"""What a client's link asks the server for, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import LogLevel

from rtunnel import delayed_calls
from rtunnel.errors import Code
from rtunnel.relay.sockets import format_host_port
from rtunnel.reverse.client.carrying import CarryingSession
from rtunnel.reverse.client.health import when_unhealthy
from rtunnel.reverse.client.interfaces import IDialler
from rtunnel.reverse.client.tunnel import Tunnel
from rtunnel.reverse.client.wanted import Wanted, WantedTunnels
from rtunnel.reverse.settings import ClientSettings
from rtunnel.services.health import HealthWatch
from rtunnel.upkeep.backoff import Backoff
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire import events
from rtunnel.wire.client_link import WITHDRAW, ClientLink
from rtunnel.wire.link import Mode

#: Seconds for which visitors of tunnels that were given up are taken, if the server does not say that it knows.
MOST_WITHDRAWAL = 3.0
#: What it means that a tunnel for challenges is refused.
NO_CHALLENGES = (
    "; no certificate is ordered meanwhile: let the server have --http-listen :80, or give this client "
    "--acme-challenge tls-alpn-01"
)


class AskingSession(CarryingSession):
    """A client's link, as far as its tunnels are concerned.

    :param dialler: makes data connections.
    :param wanted: the tunnels. They outlive the link.
    :ivar was_useful: whether the server accepted us, so that the next attempt need not wait long.
    :ivar is_reference: the server speaks the reference protocol, as far as anybody can tell.
    """

    def __init__(
        self,
        settings: ClientSettings,
        link: ClientLink,
        reactor: Any,
        visitors: Visitors,
        dialler: IDialler,
        wanted: WantedTunnels,
    ) -> None:
        super().__init__(link, reactor, visitors, dialler, settings.pool)
        self._settings = settings
        self._wanted = wanted
        self._tunnels: dict[int, Tunnel] = {}
        self._refuses = False
        self.is_reference = False
        self.was_useful = False
        self._withdrawals: set[Deferred[None]] = set()
        self._handlers |= {
            events.TunnelReady: self._tunnel_ready,
            events.TunnelRefused: self._tunnel_refused,
            events.TunnelNotice: self._tunnel_notice,
        }

    def tunnel_of(self, wanted: Wanted) -> Tunnel | None:
        """Return what the link has made of a tunnel; None: nothing yet."""
        return self._tunnels.get(wanted.number)

    # What is asked for

    def _ask_for_all(self) -> None:
        for wanted in self._wanted:
            self._ask_for(wanted)

    def _ask_for(self, wanted: Wanted) -> Tunnel:
        backoff = Backoff(self._settings.reconnect_min, self._settings.reconnect_max)
        tunnel = self._tunnels[wanted.number] = Tunnel(wanted, backoff)
        self.link.request_tunnel(tunnel.number, tunnel.request)
        return tunnel

    def sync(self) -> Deferred[None]:
        """Ask for what is wanted and was not asked for, and give up what is wanted no longer.

        :returns: fires when visitors of what was given up are taken no more.
        """
        if self.link.is_closed or self._draining:
            return succeed(None)
        present = [tunnel for tunnel in self._tunnels.values() if not tunnel.is_given_up]
        gone = [tunnel for tunnel in present if tunnel.is_gone]
        new = [wanted for wanted in self._wanted if wanted.number not in self._tunnels]
        changed = [tunnel for tunnel in present if not tunnel.is_gone and tunnel.version != tunnel.wanted.version]
        if not self.link.is_extended:
            # One that may still turn out to be extended is asked when it has.
            if self.is_reference and (gone or new or changed):
                self._begin_anew()
            return succeed(None)
        return self._change(gone, new, changed)

    def _change(self, gone: Sequence[Tunnel], new: Sequence[Wanted], changed: Sequence[Tunnel]) -> Deferred[None]:
        """Do what :meth:`sync` has found to be done. The link is extended."""
        if gone and WITHDRAW not in self.link.capabilities:
            self._begin_anew()
            return succeed(None)
        for tunnel in gone:
            self._give_up(tunnel)
        for tunnel in changed:
            self._lead_elsewhere(tunnel)
        for wanted in new:
            self._say_state(self._ask_for(wanted), only_if_down=True)
        self.handle_events()
        self.flush()
        if not gone:
            return succeed(None)
        withdrawal = Deferred.fromCoroutine(self._end_withdrawal(gone))
        self._withdrawals.add(withdrawal)
        withdrawal.addErrback(lambda failure: failure.trap(CancelledError))
        withdrawal.addErrback(lambda failure: self.log.failure("when a tunnel was given up", failure))
        return withdrawal.addBoth(lambda _: self._withdrawals.discard(withdrawal))

    def _begin_anew(self) -> None:
        """Close the link: the next one asks for what is wanted then."""
        self.why_lost = "the tunnels have changed, which this server hears of by another link only"
        self.close(Code.SHUTTING_DOWN, "the client's tunnels have changed")

    def _give_up(self, tunnel: Tunnel) -> None:
        tunnel.is_given_up = True
        delayed_calls.cancel(tunnel.retry)
        self.link.withdraw_tunnel(tunnel.number, tunnel.wanted.why_gone)
        self._dialler.tls_hosts.published(tunnel.check, False, self)
        self._info("{tunnel}: given up", tunnel=tunnel.name)

    async def _end_withdrawal(self, gone: Sequence[Tunnel]) -> None:
        await self._until_known(lambda: True)
        self.link.refuse_withdrawn(tunnel.number for tunnel in gone)
        for tunnel in gone:
            self._tunnels.pop(tunnel.number, None)
            self._dialler.tls_hosts.https.forget(tunnel.number)

    async def _until_known(self, has_time: Callable[[], bool]) -> None:
        """Wait until the server knows what was given up, and the last visitors have come that it has sent before."""
        # By the first answer it knows. What it had written to data connections has come by the second.
        liveness, until = self.link.liveness, self.clock.seconds() + MOST_WITHDRAWAL
        known = liveness.pings + 2
        while liveness.answered < known and self.clock.seconds() < until and has_time():
            if not self.connected_now or self.link.is_closed:
                break
            self.link.ping(self.clock.seconds())
            self.flush()
            await deferLater(self.clock, 0.01)

    def _lead_elsewhere(self, tunnel: Tunnel) -> None:
        """Take new visitors to another service, of which the server need not know."""
        tunnel.version = tunnel.wanted.version
        self._dialler.tls_hosts.https.forget(tunnel.number)
        if tunnel.settings.protocol == "udp":
            self._dialler.flows.end_of(tunnel.settings.remote_port)
        if not tunnel.is_served:
            return
        self._dialler.tls_hosts.published(tunnel.check, True, self)
        # As long as nothing else is known of this one.
        self.link.say_state(tunnel.number, is_ready=True)
        self._watch(tunnel, "{public} leads elsewhere from now on")

    # The answers

    def _tunnel_ready(self, event: events.TunnelReady) -> None:
        tunnel = self._tunnels[event.number]
        tunnel.backoff.reset()
        tunnel.refusal = ""
        if tunnel.is_served:
            return
        tunnel.is_served = True
        self._dialler.tls_hosts.published(tunnel.check, True, self)
        tunnel.public_address = event.address
        host, _, port = event.address.rpartition(":")
        wildcard = host in ("", "0.0.0.0", "[::]") and port.isdecimal()
        tunnel.public = self._public(int(port)) if wildcard else event.address
        self._watch(tunnel, "{public} is published")

    def _public(self, port: int) -> str:
        return format_host_port(self._settings.server.host or "server", port)

    def _watch(self, tunnel: Tunnel, what: str) -> None:
        """Log what the tunnel is, and whether its service answers; from then on, when that changes."""
        directory = tunnel.settings.local.directory
        if directory is not None:
            self._info(what + "; visitors see the files in {directory}", public=tunnel.public, directory=str(directory))
            return
        if tunnel.watching is None:
            whom = ": a CA checks there that the name is yours" if tunnel.settings.answers_challenges else " for UDP"
            self._info(what + whom, public=tunnel.public)
            return
        has_pages = tunnel.settings.protocol == "http" or tunnel.tls is not None
        meanwhile = "visitors get an error page (502)" if has_pages else "visitors get a reset"
        if isinstance(tunnel.watch, HealthWatch):
            meanwhile = when_unhealthy(tunnel.settings, tunnel.watch, self.link)
        is_blind = tunnel.settings.protocol == "https" and tunnel.tls is None
        tunnel.watching.start(
            tunnel,
            partial(self._say_state, tunnel),
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
        self._dialler.tls_hosts.published(tunnel.check, False, self)
        tunnel.rest()
        wait = tunnel.backoff.next_wait()
        tunnel.retry = self.clock.callLater(wait, self._ask_again, tunnel)
        refusal = f"{event.code}: {event.message}"
        level = LogLevel.debug if refusal == tunnel.refusal else LogLevel.warn
        tunnel.refusal = refusal
        self._emit(
            level,
            "{tunnel} refused by the server{where}: {refusal}; next attempt in {wait:.1f} s"
            + (NO_CHALLENGES if tunnel.settings.answers_challenges else ""),
            tunnel=tunnel.name,
            where=f" {self.peer_name}" if self._dialler.has_others else "",
            refusal=refusal,
            wait=wait,
        )

    def _tunnel_notice(self, event: events.TunnelNotice) -> None:
        tunnel = self._tunnels[event.number]
        self.log_limiter.warn("{tunnel}: the server says: {notice}", tunnel=tunnel.name, notice=event.message)

    def _ask_again(self, tunnel: Tunnel) -> None:
        self.link.request_tunnel(tunnel.number, tunnel.request)
        self._say_state(tunnel, only_if_down=True)
        self.handle_events()
        self.flush()

    def _server_is_silent(self) -> None:
        """Assume a reference server that has no visitor yet; a late HELLO may still show otherwise. One that has spoken
        before is only slow: it may be starting, while its system accepts connections for it."""
        if self.link.mode is Mode.AWAITING and str(self._settings.server) in self._wanted.answered:
            self._info("server {peer} does not answer yet")
        elif self.link.mode is Mode.AWAITING:
            self._info("server {peer} does not answer HELLO: the reference protocol is assumed")
            self._say_reference_tunnels()

    def _say_reference_tunnels(self) -> None:
        if self.is_reference:
            return
        self.is_reference = self.was_useful = True
        for tunnel in self._tunnels.values():
            if tunnel.number or tunnel.settings.protocol != "tcp":
                what = "{tunnel}: not served; a reference server carries one tunnel per link, and only TCP"
                self._warn(what, tunnel=tunnel.name)
                continue
            port = tunnel.settings.remote_port
            tunnel.public = self._public(port) if port else f"the shared port of {self._settings.server}"
            self._watch(tunnel, "{public} is asked for, and a reference server does not say whether it is served")
        self.sync()

    # The end

    def _stop_asking(self) -> None:
        """The connection is lost."""
        for tunnel in self._tunnels.values():
            delayed_calls.cancel(tunnel.retry)
        for withdrawal in list(self._withdrawals):
            withdrawal.cancel()
        self._rest_watches()

    def _rest_watches(self) -> None:
        for tunnel in self._tunnels.values():
            self._dialler.tls_hosts.published(tunnel.check, False, self)
            tunnel.rest()

    async def withdraw(self, has_time: Callable[[], bool]) -> None:
        """Take no more visitors. Those being served continue, and so do those whom the server has sent before it knew.

        :param has_time: whether to wait for these.
        """
        self._draining = True
        for tunnel in self._tunnels.values():
            delayed_calls.cancel(tunnel.retry)
        numbers = list(self._tunnels)
        if all(self.link.withdraw_tunnel(number) for number in numbers):
            await self._until_known(has_time)
        self._refuses = True
        self.link.refuse_withdrawn(numbers)
        self._rest_watches()
        if self.data is not None:
            self.data.withdraw()
        self.flush()
