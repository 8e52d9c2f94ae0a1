"""``rtunnel server`` and ``twistd rtunnel-server``."""

from __future__ import annotations

from functools import partial

from twisted.application.service import MultiService

from rtunnel.options.plugins.common import PluginOptions, link_limits
from rtunnel.options.plugins.reactor import leave_out_tls, prepared_reactor
from rtunnel.options.reload.part import Reloadable
from rtunnel.options.settings.reverse import SERVER
from rtunnel.options.settings.sources import Resolved
from rtunnel.options.settings.trust import decide_admission, decide_tls
from rtunnel.options.upgrade.succession import ISuccession
from rtunnel.reverse.settings import ServerSettings
from rtunnel.tls.policy import Role

NAME = "rtunnel-server"


class Options(PluginOptions):
    """The public end of a reverse tunnel. An rtunnel-client connects to the control port and asks for public ports;
    visitors of these reach the services beside the client."""

    synopsis = "[options]"
    declared = SERVER
    needed = ("tls", "allow-ports", "control-listen", "public-listen", "clients", "valid-tokens")
    examples = (
        "rtunnel pki init --name tunnel.example.org    # once, for --tls",
        "rtunnel server --tls --allow-ports 8080",
        "rtunnel server --tls --control-listen :7000 --allow-ports 8000-8999,9443",
        "rtunnel server --tls --public-listen :8080 --route least-connections",
        "rtunnel server --tls --http-listen :80 --https-listen :443",
        "rtunnel server --tls --clients /etc/rtunnel/clients.yaml",
        "RTUNNEL_LOG_FORMAT=json rtunnel server --config /etc/rtunnel/server.yaml",
    )

    #: Set once the options are parsed.
    settings: ServerSettings

    def build(self, resolved: Resolved) -> None:
        control, public = resolved.values["control-listen"], resolved.values["public-listen"]
        if public is not None and public == control and not public.description.startswith("tcp:0"):
            raise resolved.error("public-listen", f"{public} is also the control port; give each its own")
        tls = decide_tls(resolved, Role.SERVER)
        self.settings = ServerSettings(
            **resolved.fields_of(ServerSettings),
            limits=link_limits(resolved),
            tls=tls,
            admission=decide_admission(resolved),
        )


def makeService(options: Options) -> MultiService:
    """Return the server as a service for an application."""
    leave_out_tls(options)
    from rtunnel.cluster.engines import directory_for
    from rtunnel.control.actions.disconnect import disconnect
    from rtunnel.control.server import connected, look
    from rtunnel.options.plugins.run import PluginService
    from rtunnel.reverse.server.service import TunnelServer

    reactor = prepared_reactor()
    server = TunnelServer(reactor, options.settings, directory_for(reactor, options.settings.cluster))
    actions = {"disconnect": disconnect(partial(connected, server))}

    def reloadable() -> Reloadable:
        from rtunnel.options.reload.server import reloadable

        return reloadable(server)

    def succession() -> ISuccession:
        from rtunnel.options.upgrade.server import ServerSuccession

        return ServerSuccession(server)

    return PluginService(NAME, server, options, reactor, partial(look, server), actions, reloadable, succession)
