"""What a node and its services know of the cluster (docs/cluster.rst).

A *key* is what only one may have: ``port tcp 8080``, ``host app.example.org``, ``id office``. Its *owner* is who has
it, under a name that is the same on all nodes: a client, or a group of clients. Several nodes may hold a claim for the
same owner, as a client may have links to several of them.

A claim lasts as long as its node's *lease*, which the node renews. So a node that cannot reach the directory knows by
its own clock, before anybody else may have the key, that it must take no more visitors: :attr:`Claim.is_good`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

#: Seconds for which a node's claims hold after it has renewed its lease. Whoever it served comes back elsewhere after
#: that.
LEASE = 4.5
#: Seconds between two renewals.
RENEW_EVERY = 1.5
#: Seconds before the end of the lease at which a node takes no more visitors: what clocks differ in that time, and
#: what a visitor takes who is let in at the last moment.
MARGIN = 0.5


class Taken(Exception):
    """Somebody else has the key.

    :ivar nodes: the nodes that hold it for its owner.
    """

    def __init__(self, nodes: tuple[str, ...]) -> None:
        super().__init__(f"held at {', '.join(nodes)}")
        self.nodes = nodes


class Away(Exception):
    """The directory cannot be reached, or does not do what it is asked: the text says why, in one line."""


@dataclass(slots=True, eq=False)
class Claim:
    """What a node holds.

    :ivar number: the fencing number: greater than that of each earlier owner of the key. Nodes that hold the key for
        one owner have the same one.
    :ivar on_lost: called once, with the reason, if somebody else has the key now. Not after a release.
    :ivar is_lost: whether that has happened, or it was released.
    """

    directory: IDirectory = field(repr=False)
    key: str
    owner: str
    number: int
    on_lost: Callable[[str], None] = field(repr=False)
    is_lost: bool = False

    @property
    def is_good(self) -> bool:
        """Whether nobody else can have the key now. Ask before each visitor; it costs nothing."""
        return not self.is_lost and self.directory.is_sure


class IDirectory(Protocol):
    """The directory, as one node sees it. A service: its ``startService`` makes the node known, its ``stopService``
    gives back all that it holds.

    :ivar node: the name of this node, which no other has, also not this one before it was started again.
    :ivar is_cluster: whether there can be other nodes at all.
    :ivar session: 32 hexadecimal digits, the same for all nodes, also while the directory is away. No secret.
    """

    node: str
    is_cluster: bool
    session: str

    @property
    def is_sure(self) -> bool:
        """Whether the lease of this node lasts for at least :data:`MARGIN` more seconds."""

    @property
    def why_away(self) -> str:
        """Why the directory cannot be used now, in one line; empty if it can."""

    # Claims

    async def claim(self, key: str, owner: str, on_lost: Callable[[str], None]) -> Claim:
        """Hold *key* for *owner* from now on. A node may claim it for one owner more than once; the key is free when
        the last claim is released.

        :param on_lost: see :class:`Claim`.
        :raises Taken: another owner has it.
        :raises Away: the directory cannot be reached.
        """

    def release(self, claim: Claim) -> None:
        """Give back a claim. If the directory is away, it is free when the lease ends, or at the next renewal."""

    async def find(self, key: str) -> tuple[str, ...]:
        """Return the nodes that hold *key* now, this one perhaps among them.

        :raises Away: the directory cannot be reached.
        """

    async def tally(self, name: str, amount: int) -> int:
        """Say how much of something this node has now. Return how much all nodes have together, this one included.

        What a node has said goes with it when its lease ends.

        :raises Away: the directory cannot be reached.
        """

    # Nodes

    def announce(self, about: Mapping[str, Any]) -> None:
        """Tell the others something about this node, in place of what was said before: anything that JSON can hold."""

    @property
    def nodes(self) -> Mapping[str, Mapping[str, Any]]:
        """The other nodes that are there, and what they say about themselves. It is at most :data:`RENEW_EVERY` old."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call *changed* whenever :attr:`nodes` has changed."""

    # Messages

    async def send(self, node: str, kind: str, message: Mapping[str, Any]) -> bool:
        """Send a message to another node. Return whether that node listens.

        Messages from one node to another come in the order in which they are sent, and at most once. When this returns
        True, the message is on its way: what is sent to the node by another way afterwards may still be there first.

        :raises Away: the directory cannot be reached.
        """

    def listen(self, kind: str, heard: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Call *heard*, with the name of the sender, for each message of this kind."""
