"""One end of a sealed peer connection: its control channel, its other channels, and how long all that may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rtunnel import delayed_calls
from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.access.peers.rights import EVERYTHING, ClientRights
from rtunnel.errors import Code
from rtunnel.rtc.interfaces import IChannel, IPeerConnection
from rtunnel.rtc.sealed.channel import SealedChannel
from rtunnel.rtc.sealed.channels import SealedChannels
from rtunnel.rtc.sealed.sealing import Confirmation, Sealing
from rtunnel.rtc.sealed.session import SealedSession, State
from rtunnel.wire.data.keys import Root, client_length, server_length
from rtunnel.wire.webrtc import seal_control
from rtunnel.wire.webrtc.channel_messages import encode_reset
from rtunnel.wire.webrtc.sealed_keys import Side

#: How many seconds the other end has without hedges; see :func:`patience`.
TIMEOUT = 10.0
#: How many bytes of KEYS with hedges may take a second more.
SLOWEST = 20_000
#: How many seconds the other end has to read why the connection ends.
LINGER = 1.0

STRIPPED = (
    "this connection is to be sealed, and a channel is not: somebody on the way has changed what the ends announce to "
    "each other; nothing was carried"
)


def patience(names: Sequence[str]) -> float:
    """Return how many seconds the other end has, from the connection to its BIND.

    :param names: of the hedges.
    """
    longer = client_length(names) + server_length(names) - client_length() - server_length()
    return TIMEOUT + longer / SLOWEST


class EndUser(Protocol):
    """Is told how the connection fares; see :class:`rtunnel.rtc.peer.Peer`."""

    def ready(self) -> None:
        """Take note that the other end is accepted, and channels can be used."""

    def accepted(self) -> None:
        """Take note that the other end has accepted this one, too. A client may hear of it after :meth:`ready`."""

    def has_room(self) -> None:
        """Send more, if there is more."""

    def sealed_channel_arrived(self, channel: SealedChannel) -> None:
        """Take a channel that the other end has opened. Give it a user, or close it."""

    def sealing_failed(self) -> None:
        """Take note that nothing more is carried. :meth:`give_up` follows in a moment."""

    def give_up(self, reason: str) -> None:
        """End the connection."""


class SealedEnd:
    """One end.

    :param peer_id: the host's ID; empty at a host.
    :param confirm: returns what confirms an invitation, or None.
    :ivar channels: for streams and flows.
    :ivar session: the control channel.
    :ivar hedged_with: what is mixed into the keys beside the usual.
    :ivar why: why the connection ends; empty while it does not.
    """

    def __init__(
        self,
        sealing: Sealing,
        connection: IPeerConnection,
        peer_id: str,
        clock: IReactorTime,
        user: EndUser,
        confirm: Callable[[], Confirmation | None],
    ) -> None:
        self._side = sealing.side
        self.hedged_with = sealing.hedges.names
        self._patience = patience(self.hedged_with)
        self._connection = connection
        self._clock = clock
        self._user: EndUser = user
        self._timer: IDelayedCall | None = None
        self.session = SealedSession(sealing, self, peer_id, confirm)
        self.channels = SealedChannels(connection, sealing.side, self, clock)
        self.why = ""
        self._is_ready = False

    def connected(self) -> None:
        """Begin: data channels can be used."""
        self._timer = self._clock.callLater(self._patience, self._too_late)
        if self._side is Side.CLIENT:
            channel = self._connection.open_channel(seal_control.LABEL, seal_control.PROTOCOL)
            self.session.begin(channel, *self._connection.fingerprints)

    def channel_arrived(self, channel: IChannel) -> None:
        """Take a data channel that the other end has opened."""
        if channel.label != seal_control.LABEL:
            self.channels.channel_arrived(channel)
        elif self.why or self._side is Side.CLIENT or channel.protocol != seal_control.PROTOCOL:
            # Another protocol is one of a later version.
            channel.close()
        elif self.session.state is State.WAITING and channel.reliable:
            self.session.begin(channel, *self._connection.fingerprints)
        else:
            self.broken("a second control channel")

    def _too_late(self) -> None:
        self._timer = None
        other = self._side.other
        if self.session.state is State.WAITING:
            why = f"the {other} has not begun to seal within {self._patience:.0f} s, although it announces that it does"
        else:
            why = f"the {other} has not come to the end of its handshake within {self._patience:.0f} s"
        if self.session.group:
            self.session.refuse(Code.TIMEOUT, why)
        else:
            self.session_over(why, linger=False)

    # Who is there

    @property
    def name(self) -> str:
        """What to call the other end: its name, or a short form of its fingerprint; empty before it is known."""
        verdict, fingerprint = self.session.verdict, self.session.fingerprint
        if verdict is not None and verdict.name:
            return verdict.name
        return show_fingerprint(fingerprint) if fingerprint else ""

    @property
    def party(self) -> str:
        """Whom all connections with the same one belong to; see :class:`rtunnel.access.trust.Verdict`."""
        verdict = self.session.verdict
        return (verdict.party if verdict is not None else "") or self.session.fingerprint

    @property
    def rights(self) -> ClientRights:
        """What the other end may do."""
        return self.session.verdict.rights if self.session.verdict is not None else EVERYTHING

    @property
    def shown(self) -> str:
        """How the connection is sealed, for a log line."""
        exchange = " + ".join((self.session.group, *self.hedged_with))
        return f"sealed {exchange}, {self.session.signature}, {self.name}"

    @property
    def held(self) -> int:
        """How many bytes of memory take what has come before the other end is accepted."""
        return self.channels.held + self.session.held

    def tick(self) -> bool:
        """Ask again whether the other end is accepted; return it. Call this once a second."""
        self.channels.tick()
        return not self.why and self.session.judge_again()

    # From the session

    def sealed(self, root: Root) -> None:
        """See :class:`rtunnel.rtc.sealed.session_user.SessionUser`."""
        self.channels.start(root)
        self._user.ready()
        self.channels.take_held()
        self._is_ready = True
        self._say_accepted()

    def bound(self) -> None:
        """See :class:`rtunnel.rtc.sealed.session_user.SessionUser`."""
        self._stop_timer()
        self.channels.bound()
        self._say_accepted()

    def _say_accepted(self) -> None:
        if self._is_ready and self.channels.is_bound and not self.why:
            self._user.accepted()
            self._user.has_room()

    def control_closed(self) -> None:
        """See :class:`rtunnel.rtc.sealed.session_user.SessionUser`."""
        self._clock.callLater(0, self.session.control_is_closed)

    def session_over(self, reason: str, *, linger: bool) -> None:
        """See :class:`rtunnel.rtc.sealed.session_user.SessionUser`."""
        if self.why:
            return
        self.why = reason
        self._stop_timer()
        if linger:
            self._timer = self._clock.callLater(LINGER, self._user.give_up, reason)
        self.channels.end()
        self._user.sealing_failed()
        if not linger:
            self._user.give_up(reason)

    # From the channels

    def sealed_channel_arrived(self, channel: SealedChannel) -> None:
        """See :class:`rtunnel.rtc.sealed.channels.ChannelsUser`."""
        self._user.sealed_channel_arrived(channel)

    def channel_not_sealed(self, channel: IChannel) -> None:
        """See :class:`rtunnel.rtc.sealed.channels.ChannelsUser`."""
        channel.send_text(encode_reset(Code.UNAUTHORIZED, STRIPPED))
        channel.close()
        self.session.refuse(Code.UNAUTHORIZED, STRIPPED)

    def broken(self, why: str) -> None:
        """See :class:`rtunnel.rtc.sealed.channels.ChannelsUser`."""
        self.session.refuse(Code.PROTOCOL, f"the {self._side.other} broke the protocol of sealed channels: {why}")

    # Closing

    def _stop_timer(self) -> None:
        delayed_calls.cancel(self._timer)
        self._timer = None

    def close(self) -> None:
        """Forget everything: the connection is over."""
        self._stop_timer()
        self.why = self.why or "the connection is over"
        self.session.close()
        self.channels.end()
        # No reference cycles.
        forgotten: Any = None
        self._user = forgotten
