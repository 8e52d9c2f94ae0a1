"""``twistd rtc-host``."""

from __future__ import annotations

from twisted.application.service import MultiService

from rtunnel.options.plugins.rtc_common import RtcEndOptions, prepared_asyncio_reactor, shared_settings
from rtunnel.options.plugins.run import PluginService
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
    examples = (
        "twistd -n rtc-host --signal ws://1.2.3.4:8080 --id myhost --remote 127.0.0.1:25565",
        "twistd -n rtc-host --id myhost --service web=127.0.0.1:80 --service dns=udp:127.0.0.1:53",
        "twistd -n rtc-host --signal wss://signal.example.org --id myhost --protocol udp --remote 127.0.0.1:9999",
        "twistd -n rtc-host --id myhost --turn-server turn:turn.example.org --turn-user me --turn-credential secret",
        "RTUNNEL_TOKEN=my-secret-token twistd -n rtc-host --config /etc/rtunnel/rtc.yaml",
    )

    #: Set once the options are parsed.
    settings: HostSettings

    def build(self, resolved: Resolved) -> None:
        self.settings = HostSettings(
            **resolved.fields_of(HostSettings), **shared_settings(resolved), services=decide_services(resolved)
        )


def makeService(options: Options) -> MultiService:
    """Return the host as a service for an application."""
    from rtunnel.rtc.host import RtcHost

    reactor = prepared_asyncio_reactor(options.settings)
    options.tell()
    return PluginService(NAME, RtcHost(reactor, options.settings), options, reactor)
