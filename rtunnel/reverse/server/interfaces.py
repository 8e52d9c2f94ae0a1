"""A client, as the parts of the server see it: its session, and each of its tunnels as a backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rtunnel.access.public import Public
from rtunnel.access.rules import Rules
from rtunnel.reverse.metering.meter import Budget
from rtunnel.reverse.public import Visitor
from rtunnel.wire.server_link import ServerLink


class ISession(Protocol):
    """A client, as ports, routing and the roster see it; see :class:`~rtunnel.reverse.server.session.ServerSession`."""

    link: ServerLink
    client_name: str
    peer_name: str
    address: str
    datagrams: Any
    known_as: tuple[str, str] | None
    balancers: dict[Any, None]

    @property
    def holder(self) -> tuple[str, str]: ...
    @property
    def visitor_count(self) -> int: ...
    @property
    def backends(self) -> Mapping[int, Any]: ...
    @property
    def is_live(self) -> bool: ...
    @property
    def has_data_connections(self) -> bool: ...
    def open_visitor(self, tunnel: int, visitor: Visitor) -> bool: ...
    def flush(self) -> None: ...
    def lose(self, why: str, detail: str = "") -> None: ...


@dataclass(slots=True, eq=False)
class Backend:
    """One tunnel of one client, which serves visitors.

    :ivar asked: where its visitors should connect.
    :ivar public: where they do connect; None until there is such a place.
    :ivar rules: who may come, how much, who else serves the place, and what is done with requests.
    :ivar limits: how much its visitors may send and get; None: as much as they like.
    :ivar group: the group by which it serves; None until it does, and afterwards.
    :ivar is_ready: its service answers, as far as its client has said.
    """

    session: ISession
    number: int
    asked: Public
    public: Public | None = None
    rules: Rules = field(default_factory=Rules)
    budget: Budget | None = None
    group: Any = None
    is_ready: bool = True

    @property
    def place(self) -> Public:
        """What it is called in logs."""
        return self.public or self.asked

    @property
    def load(self) -> int:
        """How many streams the client's link has now, including those on data connections."""
        return self.session.link.stream_count
