"""One tunnel of a client, while a link lasts."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint

from rtunnel.access.rules import rules_as_json, without_requests
from rtunnel.reverse.proxy_protocol import header_for
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.services.files.endpoint import COST
from rtunnel.services.health import HealthWatch
from rtunnel.services.watch import ServiceWatch
from rtunnel.tls.hosts import Host
from rtunnel.upkeep.backoff import Backoff
from rtunnel.wire.tunnel_request import TunnelRequest

#: What tells whether a service answers.
Watch = ServiceWatch | HealthWatch


class Tunnel:
    """One of the client's tunnels.

    :ivar number: its number on the link.
    :ivar descriptors: how many a visitor takes.
    :ivar request: what the server is asked for.
    :ivar refusal: why the server has refused it last; empty if it has not.
    :ivar is_served: visitors can come.
    :ivar public: where, as the log shows it.
    :ivar retry: the next time that the server is asked.
    """

    def __init__(
        self,
        number: int,
        settings: TunnelSettings,
        endpoint: IStreamClientEndpoint,
        backoff: Backoff,
        watch: Watch | None,
        tls: Host | None,
    ) -> None:
        self.number = number
        self.tls = tls
        self.settings = settings
        self.endpoint = endpoint
        self.watch = watch
        self.address = settings.local.socket_address()
        self.descriptors = 2 if settings.local.directory is None else 1 + COST
        self.backoff = backoff
        rules = without_requests(settings.rules) if settings.protocol == "https" else settings.rules
        self.request = TunnelRequest(
            settings.remote_port,
            str(settings.local),
            settings.protocol,
            settings.host,
            settings.path,
            rules_as_json(rules),
        )
        self.refusal = ""
        self.is_served = False
        self.public = ""
        # The same as the server has told it.
        self.public_address = ""
        self.retry: IDelayedCall | None = None

    def header(self, visitor: str) -> bytes:
        """Return what the service gets before the visitor's first byte; see :func:`header_for`."""
        return header_for(self.settings, visitor, self.public_address)

    @property
    def name(self) -> str:
        """The tunnel's name in logs."""
        return self.settings.shown_name
