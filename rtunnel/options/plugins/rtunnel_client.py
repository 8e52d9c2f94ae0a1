"""``rtunnel client`` and ``twistd rtunnel-client``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from twisted.application.service import MultiService
from twisted.logger import Logger

from rtunnel.acme.settings import default_state_dir
from rtunnel.errors import ConfigError
from rtunnel.options.change.kept import KeptTunnels
from rtunnel.options.plugins.common import PluginOptions, check_order, link_limits
from rtunnel.options.plugins.reactor import leave_out_tls, prepared_reactor
from rtunnel.options.reload.part import Reloadable
from rtunnel.options.settings.acme import decide_acme
from rtunnel.options.settings.published import check_files
from rtunnel.options.settings.reverse import CLIENT
from rtunnel.options.settings.sources import Resolved
from rtunnel.options.settings.trust import check_token_use, decide_tls
from rtunnel.options.settings.tunnels import at_origin, decide_tunnels
from rtunnel.options.settings.via import decide_via
from rtunnel.options.upgrade.succession import ISuccession
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from rtunnel.tls.policy import Role, TlsSettings

NAME = "rtunnel-client"

_log = Logger()


class Options(PluginOptions):
    """The private end of a reverse tunnel. It connects to an rtunnel-server, asks it for public ports, and connects
    their visitors to local services. When the connection is lost, it reconnects by itself."""

    synopsis = "--server HOST:PORT --tunnel REMOTE_PORT:LOCAL [options]"
    declared = CLIENT
    needed = ("server", "tunnel", "publish", "tls", "local", "remote-port", "token")
    examples = (
        "rtunnel pki import laptop.pem    # once, for --tls",
        "rtunnel client --tls --server tunnel.example.org:7000 --tunnel 8080:80",
        "rtunnel client --tls --server 1.2.3.4:7000 --tunnel '8443:[::1]:443'",
        "rtunnel client --tls --server 1.2.3.4:7000 --publish udp:53=127.0.0.1:53",
        "rtunnel client --tls --server 1.2.3.4:7000 --publish http:a.example.org=80",
        "rtunnel client --tls --server 1.2.3.4:7000 --tunnel 8080:files:.",
        "rtunnel client --tls --server 1.2.3.4:7000 --local :80 --remote-port 8080",
        "rtunnel client --tls --server a:7000 --server b:7000 --links 2 --local :80",
        "rtunnel client --config /etc/rtunnel/client.yaml",
    )

    #: Set once the options are parsed.
    settings: ClientSettings
    #: What was published while the client ran, and is to be there again: where it is, and what it is.
    kept: KeptTunnels
    kept_entries: Sequence[object] = ()

    def build(self, resolved: Resolved) -> None:
        servers = resolved.values["server"]
        if not servers:
            raise ConfigError("--server is missing; write for example --server tunnel.example.org:7000")
        check_order(resolved, "reconnect-min", "reconnect-max")
        state_dir = resolved.values["state-dir"] or default_state_dir(os.environ)
        self.kept = KeptTunnels(state_dir, str(servers[0]), self.config_path)
        try:
            self.kept_entries = self.kept.read()
        except ConfigError as error:
            self.notes.append(str(error))
        tls = self.tls(resolved)
        try:
            tunnels, acme = decide_acme(resolved, self.tunnels(resolved))
            check_files(tunnels)
        except ConfigError as error:
            raise at_origin(error, resolved) from error
        via = decide_via(resolved, os.environ, tunnels)
        check_token_use(resolved, tls, via)
        self.settings = ClientSettings(
            **resolved.fields_of(ClientSettings) | {"via": via, "server": servers[0], "other_servers": servers[1:]},
            tunnels=tunnels,
            acme=acme,
            limits=link_limits(resolved),
            tls=tls,
        )

    def tls(self, resolved: Resolved) -> TlsSettings | None:
        """Return how the link is protected.

        :raises ConfigError: a file cannot be used, or two settings contradict each other.
        """
        return decide_tls(resolved, Role.CLIENT)

    def tunnels(self, resolved: Resolved) -> tuple[TunnelSettings, ...]:
        """Return what is published.

        :raises ConfigError: nothing is, or two settings contradict each other.
        """
        return decide_tunnels(resolved, may_be_none=bool(self.kept_entries))


def makeService(options: Options) -> MultiService:
    """Return the client as a service for an application."""
    leave_out_tls(options)
    from rtunnel.control.actions.publish import Publishing, actions
    from rtunnel.control.client import look
    from rtunnel.options.change.reader import TunnelReader
    from rtunnel.options.plugins.run import PluginService
    from rtunnel.reverse.client.service import TunnelClient

    reactor = prepared_reactor(*options.settings.first_hosts)
    assert options.resolved is not None
    publishing = Publishing(options.settings, TunnelReader(options.resolved), options.kept, options.kept_entries)
    for note in (*options.notes, *publishing.notes):
        _log.warn("{note}", note=note)
    client = TunnelClient(reactor, publishing.settings)
    publishing.serve(client)

    def reloadable() -> Reloadable:
        from rtunnel.options.reload.client import reloadable

        return reloadable(client, publishing)

    def succession() -> ISuccession:
        from rtunnel.options.upgrade.client import ClientSuccession

        return ClientSuccession(client, publishing)

    return PluginService(
        NAME, client, options, reactor, partial(look, client), actions(publishing), reloadable, succession
    )
