"""The reverse tunnel, as the client of a configuration would find it.

::

    certificate -- proxy -- name -- route -- port -- TLS -- server -- rights -- data connections
                                                                   |         -- UDP
                                                                   |         -- tunnels
                                                                   +-- clock
    services
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, TimeoutError as StepTimeout, gatherResults
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.threads import deferToThread

from rtunnel.doctor import advice, clock
from rtunnel.doctor.allowed import ask_for
from rtunnel.doctor.dates import check_begun, check_end
from rtunnel.doctor.greeting import Greeting, Refusal
from rtunnel.doctor.local import examine_services, of_tunnel
from rtunnel.doctor.reach import Reach
from rtunnel.doctor.running_clients import connected
from rtunnel.doctor.steps import WITHIN, Examination, Found, Status, Step, Trouble, within
from rtunnel.doctor.udp_path import probe
from rtunnel.errors import Code, ConfigError, ProxyFailed, TlsFailed
from rtunnel.pki.certificates import hosts_of
from rtunnel.proxies import proxy_of_environment
from rtunnel.reasons import reason_of
from rtunnel.relay.sockets import QuietFactory
from rtunnel.reverse.client.proxied import ProxiedEndpoint
from rtunnel.reverse.client.tls_dialler import TlsDialler
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from rtunnel.services.watch import try_service
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.tls.identity import expiry_warning, show_end, show_name
from rtunnel.tls.policy import Role
from rtunnel.wire.messages import CHECK, DIRECT, HOSTS, RULES, UDP, Hello, clean_text
from rtunnel.wire.tunnel_request import NAMED

#: Seconds that a server has to answer HELLO; after that a client takes it for a reference server.
SILENT_AFTER = 3.0
_REFUSED = "cannot be told: the server has refused this link"


class TunnelExamination(Examination):
    """Examines the way of a client to its server, and what it would publish.

    :param settings: those of the client; it may have no tunnels.
    :param environ: the environment of the process.
    :param with_services: whether to examine the local services too.
    """

    def __init__(
        self,
        reactor: Any,
        settings: ClientSettings,
        environ: Mapping[str, str],
        tell: Callable[[Step], None],
        *,
        with_services: bool = True,
    ) -> None:
        super().__init__(reactor, tell)
        self._with_services = with_services
        self._settings = settings
        self._hedges = Hedges(reactor, settings.hedge)
        self._environ = environ
        self._greeting: Greeting | None = None
        self._peer: Hello | None = None
        # What the clients that run here say about their tunnels, by the names of these.
        self._known: dict[str, Mapping[str, Any]] = {}
        self._is_in_use = False
        first = settings.server if settings.via is None else settings.via.address
        self._first = first
        self._reach = (
            Reach(reactor, first, "the server", advice.server_is_down(settings.server))
            if settings.via is None
            else Reach(reactor, first, "the proxy", f"Is the proxy running at {first}, and is the port of --via right?")
        )

    async def examine(self) -> None:
        """Run all steps."""
        settings = self._settings
        try:
            if settings.tls is not None:
                await self.step("certificate", self._own_files)
            await self.step("client", self._client)
            await self.step("proxy", self._proxy)
            await self.step("name", self._reach.name)
            await self.step("route", self._reach.route, "name")
            await self.step("port", self._port, "route")
            last = "port"
            if settings.via is not None:
                await self.step("through", self._through, "port")
                last = "through"
            if settings.tls is not None:
                await self.step("TLS", self._connect, "certificate", last)
                await self.step("server", self._server, "TLS")
            else:
                await self.step("server", self._server, last)
            await self.step("clock", self._clocks, "server")
            await self.step("rights", self._rights, "server")
            await self.step("data", self._data, "rights")
            await self.step("UDP", self._udp, "rights")
            await self._tunnels()
        finally:
            if self._greeting is not None:
                self._greeting.leave()
        if self._with_services:
            await examine_services(self, [of_tunnel(settings, tunnel) for tunnel in settings.tunnels])

    # The steps

    async def _own_files(self) -> Found:
        assert self._settings.tls is not None
        try:
            loaded = Credentials(self._settings.tls, Role.CLIENT).now
        except ConfigError as error:
            raise Trouble(
                str(error),
                "Bring the client's files from the server's machine: there 'rtunnel pki client NAME -o NAME.pem', here "
                "'rtunnel pki import NAME.pem'.",
            ) from error
        now = datetime.now(UTC)
        check_begun(loaded.certificates)
        own = loaded.certificate
        check_end(own)
        text = f"this client is {show_name(own)}, until {show_end(own)}; clock: {now:%Y-%m-%d %H:%M} UTC"
        if loaded.warnings:
            return Found(f"{text}; {loaded.warnings[0]}", f"{loaded.warnings[0]}.", Status.WARN)
        return Found(text)

    async def _client(self) -> Found:
        """Look for a client of the same server on this machine, which must not be disturbed."""
        asking = deferToThread(connected, self._environ, str(self._settings.server))
        clients: list[dict[str, Any]] = await within(self.reactor, WITHIN, asking)
        self._known = {each["name"]: each for found in clients for each in found["tunnels"]}
        if not clients:
            return Found("none of this server runs here, as far as this user can see")
        text = f"process {clients[0]['pid']} is connected to {self._settings.server}"
        # Whoever answers PING is no reference server.
        if not all(each["round_trip_ms"] for each in clients):
            self._is_in_use = True
            return Found(
                f"{text}, a reference server, which sends all visitors to whoever has connected last",
                "Stop the client before you examine the way to a reference server.",
                Status.WARN,
            )
        return Found(text)

    async def _port(self) -> Found:
        if self._is_in_use:
            return Found("not tried: it would take the visitors of the client that runs here", "", Status.SKIPPED)
        return await self._reach.port()

    async def _proxy(self) -> Found:
        via = self._settings.via
        if via is not None:
            return Found(f"through {via}")
        try:
            named = proxy_of_environment(self._environ, self._settings.server.host or "")
        except ConfigError as error:
            return Found(f"none is used ({error})")
        return Found("none" if named is None else f"none is used; the environment names {named} (--via env uses it)")

    async def _through(self) -> Found:
        try:
            await try_service(self._endpoint())
        except ProxyFailed as error:
            raise Trouble(str(error), advice.for_proxy(str(error), self._settings.server)) from error
        return Found(f"the proxy leads to {self._settings.server}")

    def _endpoint(self, at: str = "") -> IStreamClientEndpoint:
        """Return the endpoint of the server.

        :param at: the IP address to dial, where a name stands for several; empty: any.
        """
        settings = self._settings
        first = self._first.endpoint(self.reactor, WITHIN)
        if at and hasattr(first, "worked"):
            first.worked = at
        if settings.via is None:
            return first
        proxied: IStreamClientEndpoint = ProxiedEndpoint(self.reactor, first, settings.via, settings.server, WITHIN)
        return proxied

    def _build(self) -> Greeting:
        return Greeting(self.reactor, self._settings.token, self._settings.limits, self._hedges)

    async def _connect(self) -> Found:
        """Connect, under TLS if the client has it. What is said above that is for the steps that follow."""
        settings = self._settings
        try:
            if settings.tls is None:
                self._greeting = await self._endpoint().connect(QuietFactory.forProtocol(self._build))  # type: ignore[assignment]
                return Found("connected")
            dialler = TlsDialler(self.reactor, settings.tls, WITHIN)
            self._greeting = await dialler.connect(self._endpoint(), self._build)
        except TlsFailed as error:
            raise Trouble(str(error), advice.for_tls(str(error))) from error
        except ProxyFailed as error:
            raise Trouble(str(error), advice.for_proxy(str(error), settings.server)) from error
        peer = self._greeting.identity
        assert peer is not None
        hosts = clean_text(", ".join(hosts_of(peer.certificate)[:5])) or "no host"
        ca = show_name(peer.issuers[0]) if peer.issuers else "its own issuer"
        text = (
            f"TLS 1.3, {peer.group}; the server is {show_name(peer.certificate)} ({peer.signature}), for {hosts}, from "
            f"{ca}, until {show_end(peer.certificate)}"
        )
        if warning := expiry_warning(peer.certificate):
            return Found(f"{text}; {warning}", f"On the server: {warning}.", Status.WARN)
        return Found(text)

    async def _server(self) -> Found:
        if self._greeting is None:
            await self._connect()
        greeting = self._greeting
        assert greeting is not None
        try:
            self._peer = await within(self.reactor, SILENT_AFTER, greeting.established)
        except (StepTimeout, CancelledError):
            if greeting.heard:
                raise Trouble(
                    f"it sent {greeting.heard} bytes, which are no answer to HELLO, and then nothing",
                    advice.foreign(self._settings.server),
                ) from None
            return Found(
                "it says nothing: a reference server (wormhole), or something else that waits for its own protocol",
                "If that should be an rtunnel-server, this is not its control port: name that one in --server.",
                Status.WARN,
            )
        except Refusal as error:
            raise Trouble(error.text, advice.for_rights(error.text)) from error
        except Trouble as error:
            if error.text.startswith("the other end closed"):
                raise Trouble(f"{error.text} without an answer", advice.foreign(self._settings.server)) from error
            raise Trouble(error.text, error.advice or advice.for_tls(error.text)) from error
        if self._peer is None:
            return Found("a reference server: one TCP tunnel, no answer about rights, no UDP", "", Status.WARN)
        return Found(f"an rtunnel server ({self._peer.agent or 'it does not say which'})")

    async def _clocks(self) -> Found:
        greeting = self._greeting
        assert greeting is not None
        if self._peer is None or self._peer.time is None:
            return Found("the server does not say what its clock says", "", Status.SKIPPED)
        return clock.compare(self._peer.time, greeting.asked, greeting.answered)

    async def _rights(self) -> Found:
        greeting = self._greeting
        assert greeting is not None
        if self._peer is None:
            return Found("a reference server has none: it lets everybody in")
        try:
            await within(self.reactor, WITHIN, greeting.let_in)
        except Refusal as error:
            if error.code == Code.LIMIT:
                return Found(
                    f"known there, but one more link is too many: {error.text}",
                    "That is in order if the client runs now: the examination is a link too.",
                    Status.WARN,
                )
            raise Trouble(
                f"the server does not let this client in: {error.text}", advice.for_rights(error.text)
            ) from error
        trip = 1000 * greeting.link.liveness.round_trip
        shown = [
            *(["its certificate"] if self._settings.tls is not None else []),
            *(["its token"] if self._settings.token is not None else []),
        ]
        proof = f"with {' and '.join(shown)}" if shown else "without a proof"
        return Found(f"let in {proof}; round trip {trip:.1f} ms")

    async def _data(self) -> Found:
        greeting = self._greeting
        assert greeting is not None
        if self._peer is None:
            return Found("visitors share the link, as a reference server has it")
        if greeting.is_over:
            return Found(_REFUSED, "", Status.SKIPPED)
        if self._settings.plane == "mux" or DIRECT not in greeting.link.capabilities:
            where = "here" if self._settings.plane == "mux" else "at the server"
            return Found(f"visitors share the link: --data-plane=mux {where}")
        peer = greeting.transport.getPeer()
        at = peer.host if isinstance(peer, IPv4Address | IPv6Address) and self._settings.via is None else ""
        began = self.reactor.seconds()
        try:
            # It says nothing, and is closed at once: a silent one would count as a reference client.
            await try_service(self._endpoint(at))
        except Exception as error:
            remedy = "Something on the way allows one connection only. Let it allow more, or give --data-plane mux."
            if self._settings.plane != "direct":
                text = f"a second connection cannot be made ({reason_of(error)}): visitors share the link"
                return Found(text, remedy, Status.WARN)
            raise Trouble(f"a second connection cannot be made: {reason_of(error)}", remedy) from error
        return Found(f"a second connection can be made ({1000 * (self.reactor.seconds() - began):.0f} ms)")

    async def _udp(self) -> Found:
        greeting = self._greeting
        assert greeting is not None
        needed = any(tunnel.protocol == "udp" for tunnel in self._settings.tunnels)
        if UDP not in greeting.link.capabilities:
            if needed:
                raise Trouble("the server carries no UDP", "Update rtunnel on the server's machine.")
            return Found("the server carries no UDP, and no tunnel here needs it", "", Status.SKIPPED)
        if greeting.is_over:
            return Found(_REFUSED, "", Status.SKIPPED)
        if self._settings.via is not None:
            return Found("UDP does not pass the proxy: datagrams go by data connections", "", Status.SKIPPED)
        try:
            # The keys of hedges are long, and take a while to make.
            root, id, port = await within(self.reactor, WITHIN if self._hedges else 1.0, greeting.path)
        except (StepTimeout, CancelledError):
            return Found("the server has no UDP port: datagrams go by data connections", "", Status.SKIPPED)
        peer = greeting.transport.getPeer()
        if not isinstance(peer, IPv4Address | IPv6Address):
            return Found("the link is no TCP connection", "", Status.SKIPPED)
        port = port or peer.port
        if await probe(self.reactor, root, id, peer.host, port):
            return Found(f"UDP gets through to {peer.host} port {port}, and back")
        text = f"UDP does not get through to {peer.host} port {port}"
        if not needed:
            return Found(f"{text}; no tunnel here needs it")
        return Found(
            f"{text}: datagrams go by data connections, with the delays of TCP",
            f"Open UDP port {port} in the firewalls in front of the server.",
            Status.WARN,
        )

    # Tunnels

    async def _tunnels(self) -> None:
        tunnels = self._settings.tunnels
        # All at once: there may be hundreds, and each answer takes a round trip.
        steps: list[Step] = await gatherResults(
            [
                Deferred.fromCoroutine(self.outcome("tunnel", partial(self._tunnel, number, tunnel), "rights"))
                for number, tunnel in enumerate(tunnels)
            ]
        )
        named = zip(tunnels, steps, strict=True)
        self.note_all([replace(step, text=f"{tunnel.shown_name}: {step.text}") for tunnel, step in named])

    async def _tunnel(self, number: int, tunnel: TunnelSettings) -> Found:
        assert self._greeting is not None
        capabilities = self._greeting.link.capabilities
        if self._peer is None and tunnel is not self._settings.tunnels[0]:
            raise Trouble(
                "a reference server carries one tunnel only", "Run an rtunnel-server on the server's machine."
            )
        if tunnel.protocol == "udp" and UDP not in capabilities:
            raise Trouble("the server carries no UDP", "Update rtunnel on the server's machine.")
        if tunnel.protocol in NAMED and HOSTS not in capabilities:
            raise Trouble("the server knows no tunnels for host names", "Update rtunnel on the server's machine.")
        if tunnel.rules.group and RULES not in capabilities and tunnel.protocol not in NAMED:
            raise Trouble("the server knows no groups for ports", "Update rtunnel on the server's machine.")
        found = self._known.get(tunnel.shown_name)
        if found is not None and found["published"]:
            return Found(f"published at {clean_text(str(found['public']))} by the client that runs here")
        if found is not None and found["refused"]:
            text = clean_text(str(found["refused"]))
            raise Trouble(f"the client that runs here is refused: {text}", advice.for_tunnel(text))
        if self._greeting.is_over:
            return Found(_REFUSED, "", Status.SKIPPED)
        if CHECK not in capabilities:
            return Found("whether the server allows it shows only once it is published", "", Status.SKIPPED)
        return await ask_for(self.reactor, self._greeting, number, tunnel)
