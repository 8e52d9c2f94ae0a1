"""``rtunnel connect`` and ``twistd rtc-client``."""

from __future__ import annotations

from functools import partial

from twisted.application.service import MultiService

from rtunnel.options.identities.decide import check_trust, startup_errors
from rtunnel.options.plugins.rtc_common import RtcEndOptions, prepared_asyncio_reactor, shared_settings
from rtunnel.options.plugins.run import PluginService
from rtunnel.options.reload.part import Reloadable
from rtunnel.options.settings.rtc import CLIENT
from rtunnel.options.settings.rtc_services import decide_forwards
from rtunnel.options.settings.sources import Resolved
from rtunnel.rtc.settings import ClientSettings

NAME = "rtc-client"


class Options(RtcEndOptions):
    """The user's end of the WebRTC tunnel. It listens on local ports and forwards their connections to the services of
    an rtc-host, which it finds through an rtc-signal."""

    synopsis = "--id ID --local HOST:PORT [options]"
    declared = CLIENT
    needed = ("signal", "token", "id", "local", "forward")
    examples = (
        "rtunnel connect --signal wss://signal.example.org --id myhost --local :25565",
        "rtunnel connect --id myhost --forward :8080=web --forward udp::5353=dns",
        "rtunnel connect --id myhost --protocol udp --local 127.0.0.1:9999",
        "rtunnel connect --id myhost --turn-server turn:1.2.3.4 --turn-secret secret",
        "RTUNNEL_TOKEN=my-secret-token rtunnel connect --config /etc/rtunnel/rtc.yaml",
    )

    #: Set once the options are parsed.
    settings: ClientSettings

    def host_known(self, host: str, is_confirmed: bool) -> None:
        """Take note of the host to which an invitation has led, for a reload."""

    def build(self, resolved: Resolved) -> None:
        settings = ClientSettings(
            **resolved.fields_of(ClientSettings), **shared_settings(resolved), forwards=decide_forwards(resolved)
        )
        self.settings = check_trust(resolved, settings)


def makeService(options: Options) -> MultiService:
    """Return the client as a service for an application."""
    options.import_aiortc()
    from rtunnel.control.rtc.client import look
    from rtunnel.rtc.client import RtcClient

    reactor = prepared_asyncio_reactor(options.settings)
    options.tell()
    with startup_errors():
        client = RtcClient(reactor, options.settings)

    def reloadable() -> Reloadable:
        from rtunnel.options.reload.rtc_client import reloadable

        return reloadable(client)

    service = PluginService(NAME, client, options, reactor, partial(look, client), reloadable=reloadable)
    if client.invited is not None:
        client.invited.on_known = options.host_known
        client.invited.on_failure = service.fail
    return service
