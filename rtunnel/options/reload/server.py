"""How ``rtunnel-server`` takes other settings while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from typing import Any

from twisted.internet.defer import maybeDeferred

from rtunnel.access.admission import Admission
from rtunnel.errors import Code, Refused, StartupError
from rtunnel.options.reload.part import Part, Reloadable
from rtunnel.options.reload.shared import budget_of, drain_of
from rtunnel.reverse.datagrams.path_port import PathPort
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ServerSettings
from rtunnel.reverse.web.forwarded import TrustedProxies
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.policy import Role
from rtunnel.wire.limits import LinkLimits

_ADMISSION = frozenset({"clients", "valid-tokens", "token-over-plain-tcp"})
_LIMITS = frozenset(field.name.replace("_", "-") for field in fields(LinkLimits))
_TLS = frozenset({"tls-cert", "tls-key", "tls-ca", "tls-groups", "tls-allow-classical-certs"})


class _Applies:
    """Applies settings to a server. Each method is given the new options."""

    def __init__(self, server: TunnelServer) -> None:
        self._server = server
        self._old_paths: list[PathPort] = []

    def tls(self, new: Any) -> None:
        """New links use other files; open ones stay, unless these revoke them."""
        settings: ServerSettings = new.settings
        server = self._server
        if server.tls is not None and settings.tls is not None:
            server.tls.credentials = Credentials(settings.tls, Role.SERVER)
            server.guard.close_revoked()

    def admission(self, new: Any) -> None:
        server = self._server
        server.admission = Admission(new.settings.admission)
        server.guard.enforce_rights()
        server.guard.warn_if_open()

    def limits(self, new: Any) -> None:
        limits: LinkLimits = new.settings.limits
        server = self._server
        server.max_frame = limits.max_frame
        server.kept.patience = limits.dead_after
        server.hello = replace(server.hello, initial_credit=limits.initial_credit, dead_after=limits.dead_after)

    def pool(self, new: Any) -> None:
        if self._server.takes_data_connections:
            self._server.pool_size = new.settings.pool

    def handshakes(self, new: Any) -> None:
        settings: ServerSettings = new.settings
        server = self._server
        server.handshake_timeout = server.http.head_timeout = settings.handshake_timeout
        if server.tls is not None:
            server.tls.patience, server.tls.most = settings.handshake_timeout, settings.max_handshakes

    def allow_ports(self, new: Any) -> None:
        self._server.settings = new.settings
        self._server.guard.enforce_rights()

    async def control(self, new: Any) -> None:
        settings: ServerSettings = new.settings
        server = self._server
        await server.control.move(settings.control_listen)
        server.guard.warn_if_open()
        if settings.udp_listen is None:
            # Without it datagrams go by data connections, and the log says so.
            await self._move_paths(settings)

    async def udp(self, new: Any) -> None:
        path_port = await self._move_paths(new.settings)
        if path_port is not None and path_port.problem:
            raise StartupError(f"cannot listen on {new.settings.udp_listen} by UDP: {path_port.problem}")

    async def _move_paths(self, settings: ServerSettings) -> PathPort | None:
        """Let paths that are offered from now on lead elsewhere. Return what could not be bound."""
        server = self._server
        before = server.path_port
        new = PathPort(server.reactor, server.poller, settings.udp_listen, lambda: server.control.host)
        new.name = None  # for a while there are two
        if new.asked == before.bound:
            return None
        same = next((port for port in self._old_paths if port.bound == new.asked), None)
        # As 127.0.0.1:7000 is in the way of all addresses. With the socket its paths would be lost.
        is_in_the_way = not len(before) and before.bound is not None and before.bound[1:] == (new.asked or ())[1:]
        if is_in_the_way:
            await maybeDeferred(before.disownServiceParent)
        if same is not None:
            self._old_paths.remove(same)
            new = same
        else:
            new.setServiceParent(server)
        if new.problem:
            await maybeDeferred(new.disownServiceParent)
            if is_in_the_way:
                before.setServiceParent(server)
            return new
        server.path_port = new
        new.on_left = _nothing
        if is_in_the_way:
            return None
        self._old_paths.append(before)
        before.on_left = self._has_no_paths
        if not len(before):
            self._has_no_paths(before)
        return None

    def _has_no_paths(self, port: PathPort) -> None:
        self._old_paths.remove(port)
        port.on_left = _nothing
        port.disownServiceParent()

    async def named(self, protocol: str, new: Any) -> None:
        server = self._server
        await server.named.move(protocol, getattr(new.settings, f"{protocol}_listen"))
        if protocol not in server.named.listeners:
            text = f"the server has no {protocol.upper()} port (--{protocol}-listen) any more"
            why = Refused(Code.NOT_SUPPORTED, text)
            for session in list(server.sessions):
                for backend in list(session.backends.values()):
                    if backend.asked.protocol == protocol:
                        session.revoke_tunnel(backend, why)

    def look(self) -> Iterator[str]:
        """Look at the files that are read again when they change."""
        server = self._server
        clients, tls = server.admission.clients, server.tls
        certificates = tls.credentials.now if tls is not None else None
        server.guard.look()
        if server.admission.clients is not clients:
            yield "the clients file has changed"
        if tls is not None and tls.credentials.now is not certificates:
            yield "the TLS files have changed; new links use them"


def _nothing(_port: PathPort) -> None:
    pass


def reloadable(server: TunnelServer) -> Reloadable:
    """Return what applies other settings to a server."""
    to = _Applies(server)

    async def shared(new: Any) -> None:
        await server.shared_port.move(new.settings.public_listen, server)

    parts = (
        Part(_TLS, to.tls),
        Part(_ADMISSION, to.admission),
        Part(_LIMITS, to.limits),
        Part(frozenset({"pool"}), to.pool),
        Part(frozenset({"handshake-timeout", "max-handshakes"}), to.handshakes),
        drain_of(server),
        budget_of(server.memory),
        Part(frozenset({"visitor-idle"}), lambda new: server.watch_idle(new.settings.visitor_idle)),
        Part(frozenset({"route"}), lambda new: server.shared_backends.use_policy(new.settings.route)),
        Part(
            frozenset({"trusted-proxies"}),
            lambda new: setattr(server.http, "trusted", TrustedProxies(new.settings.trusted_proxies)),
        ),
        Part(frozenset({"allow-ports"}), to.allow_ports),
        Part(frozenset({"control-listen"}), to.control),
        Part(frozenset({"udp-listen"}), to.udp),
        Part(frozenset({"public-listen"}), shared),
        Part(frozenset({"http-listen"}), partial(to.named, "http")),
        Part(frozenset({"https-listen"}), partial(to.named, "https")),
    )
    return Reloadable(server, parts, lambda: list(to.look()))
