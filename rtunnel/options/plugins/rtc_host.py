"""``rtunnel host`` and ``twistd rtc-host``."""

from __future__ import annotations

from functools import partial

from twisted.application.service import MultiService

from rtunnel.options.identities.decide import check_trust, startup_errors
from rtunnel.options.plugins.rtc_common import RtcEndOptions, prepared_asyncio_reactor, shared_settings
from rtunnel.options.plugins.run import PluginService
from rtunnel.options.reload.part import Reloadable
from rtunnel.options.settings.rtc import HOST
from rtunnel.options.settings.rtc_services import decide_services
from rtunnel.options.settings.sources import Resolved
from rtunnel.rtc.settings import HostSettings

NAME = "rtc-host"


class Options(RtcEndOptions):
    """The private end of the WebRTC tunnel. It registers with an rtc-signal under its ID, answers the clients that ask
    for it, and connects them to local services."""

    synopsis = "--id ID --remote HOST:PORT [options]"
    declared = HOST
    needed = ("signal", "token", "id", "remote", "service")
    examples = (
        "rtunnel host --signal wss://signal.example.org --id myhost --remote :25565",
        "rtunnel host --id myhost --service web=:80 --service dns=udp:127.0.0.1:53",
        "rtunnel host --id myhost --protocol udp --remote 127.0.0.1:9999",
        "rtunnel host --id myhost --turn-server turn:1.2.3.4 --turn-secret secret",
        "RTUNNEL_TOKEN=my-secret-token rtunnel host --config /etc/rtunnel/rtc.yaml",
    )

    #: Set once the options are parsed.
    settings: HostSettings

    def build(self, resolved: Resolved) -> None:
        settings = HostSettings(
            **resolved.fields_of(HostSettings), **shared_settings(resolved), services=decide_services(resolved)
        )
        self.settings = check_trust(resolved, settings)


def makeService(options: Options) -> MultiService:
    """Return the host as a service for an application."""
    options.import_aiortc()
    from rtunnel.control.actions.disconnect import disconnect
    from rtunnel.control.rtc.host import connected, look
    from rtunnel.rtc.host import RtcHost

    reactor = prepared_asyncio_reactor(options.settings)
    options.tell()
    with startup_errors():
        host = RtcHost(reactor, options.settings)
    actions = {"disconnect": disconnect(partial(connected, host))}

    def reloadable() -> Reloadable:
        from rtunnel.options.reload.rtc_host import reloadable

        return reloadable(host)

    return PluginService(NAME, host, options, reactor, partial(look, host), actions, reloadable)
