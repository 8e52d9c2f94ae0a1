"""A host's peer connection to one client: which channels it serves, and for how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.access.peers.rights import EVERYTHING
from rtunnel.addresses import UdpAddress
from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.socket_end import PromptEnd
from rtunnel.rtc.aiortc.dtls import SharedCertificate
from rtunnel.rtc.interfaces import IChannel
from rtunnel.rtc.invitations.hosting import Invitations
from rtunnel.rtc.offered import Service, meant
from rtunnel.rtc.offers import Offer
from rtunnel.rtc.peer import Peer
from rtunnel.rtc.rights.uses import Uses
from rtunnel.rtc.sealed.sealing import Confirmation, Sealing
from rtunnel.rtc.settings import HostSettings
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.rtc.streams import ChannelStreams
from rtunnel.rtc.traffic import LIMIT, History
from rtunnel.rtc.udp_client import show_service
from rtunnel.rtc.udp_host import HostFlows
from rtunnel.traffic.accounts import LINK
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.token_bucket import TokenBucket
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc import seal_control
from rtunnel.wire.webrtc.signaling import Extension

#: The label of a channel between the two ends themselves, never for a service (docs/wire.rst).
CONTROL = seal_control.LABEL
#: How many offers of a client that is connected are answered in a second, and at once. A client makes one that is not
#: answered again once a second.
RESTARTS_PER_SECOND = 1.0
RESTARTS_AT_ONCE = 8

_STRIPPED = (
    "it seals its channels, and its offer did not say so: somebody on the way has changed what the ends announce to "
    "each other"
)
_ANOTHER = "another client with the same ID at the signaling server is connected"


class Host(Protocol):
    """The host, as its peer connections see it; see :class:`rtunnel.rtc.host.RtcHost`."""

    reactor: Any
    settings: HostSettings
    signaling: SignalLink
    log_limiter: LogLimiter
    memory: Memory
    history: History
    certificate: SharedCertificate
    sealing: Sealing
    offered: Mapping[str, Service]
    visitors: Visitors
    descriptors: Descriptors
    is_draining: bool
    invitations: Invitations
    uses: Uses

    def takes_place(self, peer: HostPeer) -> bool: ...
    def makes_room(self, peer: HostPeer) -> bool: ...
    def peer_ended(self, peer: HostPeer, reason: str) -> None: ...
    def stream_ended(self) -> None: ...


class HostPeer(Peer):
    """The peer connection to one client.

    :ivar since: when its offer was taken up, by the reactor's clock.
    :ivar use: what the client uses, and may use.
    """

    log = Logger()
    kind = "client"

    def __init__(self, host: Host, offer: Offer) -> None:
        name = offer.sender
        super().__init__(
            host.reactor,
            host.settings,
            name,
            host.signaling,
            host.peer_ended,
            host.stream_ended,
            host.log_limiter,
            host.memory,
            host.history,
            host.sealing,
            host.certificate.for_connection(),
        )
        self.since = host.reactor.seconds()
        self._restarts = TokenBucket(RESTARTS_PER_SECOND, RESTARTS_AT_ONCE, self.since)
        self._host = host
        self.use = host.uses.alone(name)
        self._peer_extension = offer.description.extension
        if self._peer_extension is not None and self._peer_extension.seal:
            self.seal()
        self._streams = self.use_streams(self._peer_extension)
        self._flows = HostFlows(
            host.reactor,
            self.channels,
            host.settings.max_flows,
            host.settings.udp_idle,
            host.log_limiter,
            clean_text(name),
            host.descriptors,
        )

    @property
    def party(self) -> str:
        """Who it is, as far as its connections are to be counted together; empty: nobody has proved it."""
        return self.sealed.party if self.sealed is not None else ""

    @property
    def is_proved(self) -> bool:
        """Whether the client is connected, and has proved to be somebody whom this host has been told to trust."""
        return self.is_connected and self.sealed is not None and self.sealing.trust.is_closed

    @property
    def heard_from(self) -> str:
        """See :attr:`rtunnel.rtc.interfaces.IPeerConnection.heard_from`."""
        return self.connection.heard_from

    @property
    def extension(self) -> Extension | None:
        """The extension that our description announces; None for a client that speaks the reference protocol."""
        return super().extension if self._peer_extension is not None else None

    def confirmation(self) -> Confirmation | None:
        """See :class:`Peer`. Only an invitation that was answered has one."""
        named = self._peer_extension.invitation if self._peer_extension is not None else ""
        each = self._host.invitations.answered(named) if named else None
        return each.confirmation if each is not None else None

    def take_other_offer(self, sdp: str) -> None:
        """Answer a further offer of this connection: the client looks for another path."""
        if self._restarts.take(self._host.reactor.seconds()):
            self.connection.take_offer(sdp)

    def ready(self) -> None:
        """See :class:`Peer`."""
        if not self._host.takes_place(self):
            # Only one that is sealed is asked to give way to another.
            assert self.sealed is not None
            self.sealed.session.refuse(Code.UNAUTHORIZED, _ANOTHER)
            return
        if not self._host.makes_room(self):
            self.give_up("there is no room for it (--max-clients)", LIMIT)
            return
        super().ready()
        if self.sealed is not None:
            self.use = self._host.uses.of(self.sealed.party, self.sealed.name, self.sealed.rights)

    def accepted(self) -> None:
        """See :class:`Peer`."""
        super().accepted()
        client = clean_text(self.name)
        self._host.log_limiter.info(
            "client {client} connected: {path}{protocol}{sealed}",
            client=client,
            peer=self.heard_from,
            path=self.connection.path,
            protocol="" if self._peer_extension is not None else " (reference protocol)",
            sealed="" if self.sealed is None else f"; {self.sealed.shown}",
        )
        if self.sealed is None:
            self._host.log_limiter.warn(
                "client {client} does not seal its channels: whoever runs the signaling server can read and change "
                "what they carry; update it, or refuse all such clients with --authorized-clients",
                client=client,
                peer=self.heard_from,
            )

    def tick(self) -> None:
        """See :class:`Peer`. Channels end that the client may not have any more."""
        super().tick()
        if self.sealed is None or not self.is_connected:
            return
        rights = self.sealed.rights
        self.use.name = self.sealed.name
        self.use.change(rights)
        for channel in list(self.sealed.channels.open):
            if not rights.may_keep(channel.protocol):
                channel.cut(Code.UNAUTHORIZED, "the right to use this service has ended")

    def take_channel(self, channel: IChannel) -> None:
        """Connect a channel of the client to the service that it asks for, or refuse it."""
        if channel.label == CONTROL:
            channel.close()
            if self.sealed is None and channel.protocol == seal_control.PROTOCOL:
                self.give_up(_STRIPPED)
            return
        rights = EVERYTHING if self.sealed is None else self.sealed.rights
        channel.protocol = meant(self._host.offered, channel.protocol, rights.services)
        service = self._host.offered.get(channel.protocol)
        kind = "tcp" if channel.reliable else "udp"
        code, why = self._why_not(channel)
        if self._host.is_draining:
            self._streams.refuse(channel, Code.SHUTTING_DOWN)
        elif why:
            self._host.log_limiter.warn(
                "client {client} is refused a connection: {why}",
                client=clean_text(self.name),
                peer=self.heard_from,
                why=clean_text(why),
            )
            self._streams.refuse(channel, code, why)
        elif service is None or service.settings.protocol != kind:
            self._host.log_limiter.warn(
                "client {client} asks for {service} over {kind}, which is not offered",
                client=clean_text(self.name),
                peer=self.heard_from,
                service=show_service(clean_text(channel.protocol)),
                kind=kind,
            )
            self._streams.refuse(channel, Code.UNKNOWN_SERVICE)
        elif isinstance(service.settings.remote, UdpAddress):
            self._flows.accept(channel, service.settings.remote, service.account, self.use.flow(channel.protocol))
        else:
            self._dial(self._streams, channel, service)

    def _why_not(self, channel: IChannel) -> tuple[Code, str]:
        """Return why the client may not have *channel*; the text is empty if it may."""
        if self.sealed is None:
            return Code.UNAUTHORIZED, ""
        use = self.use
        return self.sealed.rights.why_not(channel.protocol, use.streams, use.streams_of(channel.protocol))

    def _dial(self, streams: ChannelStreams, channel: IChannel, service: Service) -> None:
        assert service.endpoint is not None
        assert service.watch is not None
        watch = service.watch

        def failed(failure: Failure) -> None:
            log = self.log.debug if watch.failed(failure) else self._host.log_limiter.warn
            log("service {remote} cannot be reached: {error}", remote=service.settings.remote, error=reason_of(failure))

        end = PromptEnd(lambda _end: watch.answered(), self._host.visitors.discard)
        self.use.serve(end, channel.protocol)
        end.attach(streams.attach(channel, end))
        name = clean_text(self.name)
        self._host.visitors.serve(end, name, channel.protocol, 1, service.account, name, LINK)
        self.log.debug("{label} of client {client}", label=clean_text(channel.label), client=name)
        end.dial(service.endpoint, failed)

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`Peer`."""
        yield from super().holdings()
        yield from self._flows.table.holdings()

    def sealing_failed(self) -> None:
        """See :class:`Peer`."""
        super().sealing_failed()
        self._flows.close()

    def _ended(self) -> None:
        super()._ended()
        self._flows.close()
