"""A client's peer connection to its host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import format_address
from rtunnel.relay.udp.flows import FlowTable
from rtunnel.rtc.invitations.invited import Invited
from rtunnel.rtc.peer import Peer
from rtunnel.rtc.sealed.announced import not_enough
from rtunnel.rtc.sealed.sealing import Confirmation, Sealing
from rtunnel.rtc.settings import ClientSettings
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.rtc.traffic import History
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.wire.webrtc.signaling import ANSWER, Extension, read_description, read_refusal


class Client(Protocol):
    """The client, as its peer connection sees it; see :class:`rtunnel.rtc.client.RtcClient`."""

    reactor: Any
    settings: ClientSettings
    signaling: SignalLink
    log_limiter: LogLimiter
    memory: Memory
    history: History
    sealing: Sealing
    flow_table: FlowTable
    invited: Invited | None

    def peer_connected(self, peer: ClientPeer) -> None: ...
    def peer_accepted(self, peer: ClientPeer) -> None: ...
    def peer_ended(self, peer: ClientPeer, reason: str) -> None: ...
    def stream_ended(self) -> None: ...


class ClientPeer(Peer):
    """The peer connection to the host.

    :ivar is_refused: whether one of the two ends does not accept the other.
    """

    kind = "host"
    is_refused = False
    peer_extension: Extension | None = None
    is_answered = False

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(
            client.reactor,
            client.settings,
            name,
            client.signaling,
            client.peer_ended,
            client.stream_ended,
            client.log_limiter,
            client.memory,
            client.history,
            client.sealing,
        )
        self._client = client
        #: The ID under which the host knows us.
        self._identity = client.signaling.identity

    @property
    def extension(self) -> Extension | None:
        """See :class:`Peer`. It names the invitation by which this client comes."""
        own, invited = super().extension, self._client.invited
        return own if own is None or invited is None else replace(own, invitation=invited.number)

    def confirmation(self) -> Confirmation | None:
        """See :class:`Peer`."""
        return self._client.invited.confirmation if self._client.invited is not None else None

    @property
    def needs_id(self) -> bool:
        """Whether another offer, under our ID of now, could be one on this connection."""
        is_known = self._identity == self._client.signaling.identity
        return is_known and self.peer_extension is not None and self.peer_extension.ice_restart

    @property
    def may_restart(self) -> bool:
        """Whether the host would answer another offer on this connection, and not take it for a new one."""
        return self.is_connected and self.needs_id

    def restart(self) -> None:
        """Look for another path, or go on with it, if that is needed and possible."""
        if self.may_restart and self.connection.wants_restart:
            self.connection.restart()

    def path_silent(self) -> None:
        """See :class:`Peer`."""
        super().path_silent()
        self.restart()

    def take_answer(self, payload: object) -> None:
        """Accept the host's answer to our offer.

        :raises BadSignal: the answer is malformed.
        :raises BadDescription: its session description cannot be used.
        """
        if not self.is_answered and (refusal := read_refusal(payload)):
            self.is_refused = True
            self.give_up(f"it refuses this client: {refusal}")
            return
        description = read_description(ANSWER, payload)
        extension = description.extension
        if not self.is_answered and (bad := not_enough(self.sealing, extension)) is not None:
            self.is_refused = True
            self.give_up(bad.why)
            return
        self.connection.take_answer(description.sdp)
        if not self.is_answered:
            self.peer_extension = extension
            self.is_answered = True
            if extension is not None and extension.seal:
                self.seal()

    def ready(self) -> None:
        """See :class:`Peer`."""
        super().ready()
        self.use_streams(self.peer_extension)
        self._client.peer_connected(self)

    def sealing_failed(self) -> None:
        """See :class:`Peer`."""
        self.is_refused = True
        super().sealing_failed()

    def accepted(self) -> None:
        """See :class:`Peer`."""
        super().accepted()
        self._client.peer_accepted(self)

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`Peer`."""
        yield from super().holdings()
        yield from self._client.flow_table.holdings()

    def forward(self, end: SocketEnd, service: str) -> None:
        """Open a stream for a local connection."""
        assert self.streams is not None
        source = format_address(end.transport.getPeer())
        self.log.debug("{source} to service '{service}'", source=source, service=service)
        end.attach(self.streams.attach(self.channels.open_channel(f"tcp-{source}", service), end))
