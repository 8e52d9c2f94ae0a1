"""Who takes part in signaling: a host or a client, and the line to it.

A :class:`Party` is ``new`` until its first message names it, ``waiting`` while its ID is claimed or the holder of its
ID is probed, ``registered``, and ``gone``.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from rtunnel.cluster.interface import Claim
from rtunnel.wire.webrtc.signaling import Signal

#: WebSocket close codes (RFC 6455, section 7.4.1, and IANA's registry).
GOING_AWAY = 1001
UNSUPPORTED_DATA = 1003
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013


class Line(Protocol):
    """A party's connection. No method calls back before it returns."""

    @property
    def peer_name(self) -> str:
        """The other end's address, for the log."""

    @property
    def budget_key(self) -> Hashable:
        """By what the offers of the other end are counted."""

    @property
    def is_slow(self) -> bool:
        """Whether the other end does not read, so that others should not be able to send it more."""

    def send(self, text: bytes) -> None:
        """Send a text message."""

    def close(self, code: int, reason: str) -> None:
        """Close the connection after what was sent."""

    def probe(self) -> None:
        """Ping the other end. :meth:`Switchboard.probe_answered` or :meth:`Switchboard.left` follows."""

    def admitted(self) -> None:
        """Take note that the party waits no more for its ID, and that its messages have been handled."""

    def takes_offer_of(self, sender: Line) -> bool:
        """Count an offer of *sender* to the other end; return False if there are too many.

        The answer to it does not count against the other end's message rate.
        """


class State(Enum):
    """The state of a party; see the docstring of the module."""

    NEW = "new"
    WAITING = "waiting"
    REGISTERED = "registered"
    GONE = "gone"


@dataclass(eq=False, slots=True)
class Party:
    """A host or a client.

    :ivar key: what its registration has as a key; empty if it has none.
    :ivar offers_to: the parties that have not answered its offers.
    :ivar offers_from: the parties whose offers it has not answered.
    :ivar node: the node of the cluster at which it is registered; empty: this one.
    :ivar claim: by which this node holds its ID in the cluster; None: not yet, or there is no cluster.
    """

    line: Line
    state: State = State.NEW
    id: str = ""
    key: str = ""
    is_host: bool = False
    mistakes: int = 0
    held: list[bytes] = field(default_factory=list)
    offers_to: dict[Party, None] = field(default_factory=dict)
    offers_from: dict[Party, None] = field(default_factory=dict)
    node: str = ""
    claim: Claim | None = None


class Others(Protocol):
    """The other nodes of a cluster, as the switchboard sees them. No method calls back before it returns, but
    :meth:`claim`."""

    def claim(self, party: Party) -> None:
        """Claim the ID of *party*, which waits. :meth:`Switchboard.claimed`, :meth:`Switchboard.refused` or
        :meth:`Switchboard.dismiss` follows, unless it leaves."""

    def took_over(self, holder: Party, party: Party) -> None:
        """Give the claim of *holder* to *party*, which is the same end on a new connection."""

    def left(self, party: Party) -> None:
        """Give back the ID of *party*, and tell the nodes where the other ends of its unanswered offers are."""

    def answer(self, claimant: Party, *, is_free: bool) -> None:
        """Tell *claimant*, which is at another node, whether it may have the ID for which it has asked."""

    def tried(self, party: Party) -> None:
        """Let an offer to an invitation count at the other nodes, too."""

    def pass_on(self, party: Party, signal: Signal, text: bytes) -> None:
        """Pass a message on to where its target is.

        :param text: the message as it is to be sent.
        """
