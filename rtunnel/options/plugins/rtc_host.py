"""``rtunnel host`` and ``twistd rtc-host``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from twisted.application.service import MultiService

from rtunnel.options.identities.decide import check_trust, decide_identity, startup_errors
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
    needed = ("signal", "token", "id", "remote", "service", "invite")
    examples = (
        "rtunnel host --signal wss://signal.example.org --id myhost --remote :25565",
        "rtunnel host --id myhost --service web=:80 --service dns=udp:127.0.0.1:53",
        "rtunnel host --service web=127.0.0.1:80 --invite",
        "rtunnel host --id myhost --protocol udp --remote 127.0.0.1:9999",
        "rtunnel host --id myhost --turn-server turn:1.2.3.4 --turn-secret secret",
        "RTUNNEL_TOKEN=my-secret-token rtunnel host --config /etc/rtunnel/rtc.yaml",
    )

    #: Set once the options are parsed.
    settings: HostSettings

    def __init__(self) -> None:
        self.invites = False
        super().__init__()
        self.docs["invite"] = self.opt_invite.__doc__ or ""

    def opt_invite(self) -> None:
        """Invite somebody to all services, and log the code: it is good for ten minutes and one try. From then on only
        clients that this host knows may connect. Without --id, an ID is made from the host's fingerprint."""
        self.invites = True

    def build(self, resolved: Resolved) -> None:
        if self.invites and resolved.values["id"] is None:
            from rtunnel.options.invitations.own_id import own_id

            resolved = replace(resolved, values={**resolved.values, "id": own_id(decide_identity(resolved))})
        settings = HostSettings(
            **resolved.fields_of(HostSettings),
            **shared_settings(resolved),
            services=decide_services(resolved),
            invite=self.invites,
        )
        self.settings = check_trust(resolved, settings)


def makeService(options: Options) -> MultiService:
    """Return the host as a service for an application."""
    options.import_aiortc()
    from rtunnel.control.actions.disconnect import disconnect
    from rtunnel.control.actions.invite import actions as invitations
    from rtunnel.control.rtc.host import connected, look
    from rtunnel.rtc.host import RtcHost

    reactor = prepared_asyncio_reactor(options.settings)
    options.tell()
    with startup_errors():
        host = RtcHost(reactor, options.settings)
    actions = {"disconnect": disconnect(partial(connected, host)), **invitations(host)}

    def reloadable() -> Reloadable:
        from rtunnel.options.reload.rtc_host import reloadable

        return reloadable(host)

    return PluginService(NAME, host, options, reactor, partial(look, host), actions, reloadable)
