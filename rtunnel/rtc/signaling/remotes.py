"""Those who are registered at other nodes, as this node knows them: where they are, and since when that is known.

Who is where is remembered, so that an answer needs no look-up. It is good for :data:`GOOD_FOR` seconds; after that the
directory is asked again. So a node can speak only as somebody whose ID it holds, or held until a moment ago.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable

from rtunnel.rtc.signaling.limits import MessageRate
from rtunnel.rtc.signaling.party import Line, Party, State

#: Seconds for which it is believed where somebody is.
GOOD_FOR = 5.0
#: How many are remembered; beyond that, the one of whom nothing was heard for longest is forgotten.
MOST_REMOTES = 16384


class Remote:
    """Somebody at another node. To the switchboard it is the line of a party.

    :param send: sends a text message, which is an error, to it.
    :param rate: how fast it may send.
    :ivar budget_key: by what its offers are counted: its own node says so with each message.
    :ivar checked: when the directory has said that its node holds its ID, in the reactor's seconds.
    """

    is_slow = False

    def __init__(self, name: str, send: Callable[[Party, bytes], None], rate: MessageRate) -> None:
        self.party = Party(self, State.REGISTERED, name)
        self.rate = rate
        self.budget_key: Hashable = ""
        self.checked = float("-inf")
        self._send = send

    @property
    def node(self) -> str:
        """The name of its node."""
        return self.party.node

    @property
    def peer_name(self) -> str:
        """See :class:`~rtunnel.rtc.signaling.party.Line`."""
        return f"node {self.node}"

    def is_at(self, node: str, now: float) -> bool:
        """Whether it is known to be at *node*."""
        return self.node == node and now - self.checked < GOOD_FOR

    def send(self, text: bytes) -> None:
        """See :class:`~rtunnel.rtc.signaling.party.Line`."""
        self._send(self.party, text)

    def close(self, code: int, reason: str) -> None:
        """Do nothing: its connection is its own node's."""

    def probe(self) -> None:
        """Do nothing; see :meth:`close`."""

    def admitted(self) -> None:
        """Do nothing; see :meth:`close`."""

    def takes_offer_of(self, sender: Line) -> bool:
        """Return True: its own node counts."""
        return True


class Remotes:
    """All that are remembered.

    :param build: makes one that has this ID.
    :param gone: called with the party of one that is gone, or is at another node now.
    """

    def __init__(self, build: Callable[[str], Remote], gone: Callable[[Party], None]) -> None:
        self._build = build
        self._gone = gone
        self._all: OrderedDict[str, Remote] = OrderedDict()

    def __len__(self) -> int:
        return len(self._all)

    def get(self, name: str) -> Remote | None:
        """Return who has this ID, if that is remembered."""
        return self._all.get(name)

    def put(self, name: str, node: str, now: float | None = None) -> Remote:
        """Return who has this ID at *node*.

        :param now: the reactor's seconds, if the directory has just said that it is there.
        """
        remote = self._all.get(name)
        if remote is not None and remote.node != node:
            self._gone(remote.party)
        if remote is None:
            remote = self._all[name] = self._build(name)
            if len(self._all) > MOST_REMOTES:
                self._forget(next(iter(self._all)))
        self._all.move_to_end(name)
        remote.party.node = node
        if now is not None:
            remote.checked = now
        return remote

    def remove(self, name: str, node: str = "") -> None:
        """Forget who has this ID, who is gone.

        :param node: only if it is there; empty: wherever it is.
        """
        remote = self._all.get(name)
        if remote is not None and node in ("", remote.node):
            del self._all[name]
            self._gone(remote.party)

    def remove_nodes(self, nodes: Collection[str]) -> None:
        """Forget everybody at these nodes, which are gone."""
        for name in [name for name, remote in self._all.items() if remote.node in nodes]:
            self.remove(name)

    def _forget(self, name: str) -> None:
        party = self._all.pop(name).party
        for other in party.offers_to:
            del other.offers_from[party]
        for other in party.offers_from:
            del other.offers_to[party]
