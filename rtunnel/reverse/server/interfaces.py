"""A client, as the parts of the server see it: its session, and each of its tunnels as a backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rtunnel.access.limits import Limits
from rtunnel.access.public import Public
from rtunnel.access.rules import Rules
from rtunnel.errors import Refused
from rtunnel.reverse.metering.meter import Budget
from rtunnel.reverse.public import Owner, Visitor
from rtunnel.traffic.accounts import Account
from rtunnel.wire.server_link import ServerLink


class ISession(Protocol):
    """A client, as ports, routing and the roster see it; see :class:`~rtunnel.reverse.server.session.ServerSession`."""

    link: ServerLink
    client_name: str
    peer_name: str
    address: str
    datagrams: Any
    known_as: tuple[str, str] | None

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
    def has_room(self, tunnel: int) -> bool: ...
    def flush(self) -> None: ...
    def revoke_tunnel(self, backend: Any, refusal: Refused) -> None: ...
    def lose(self, why: str, detail: str = "") -> None: ...


@dataclass(slots=True, eq=False)
class Backend:
    """One tunnel of one client, which serves visitors.

    :ivar asked: where its visitors should connect.
    :ivar public: where they do connect; None until there is such a place.
    :ivar rules: who may come, how much, who else serves the place, and what is done with requests.
    :ivar granted: what the clients file says of its visitors, in addition.
    :ivar told: what its client was told last about that.
    :ivar limits: at the shared port, all of that; elsewhere its group has them.
    :ivar budget: how much its visitors may send and get; None: as much as they like.
    :ivar account: counts what its visitors send and get; set with *public*.
    :ivar group: the group by which it serves; None until it does, and afterwards.
    :ivar is_ready: its service answers, as far as its client has said.
    :ivar avoided_until: it has just refused a request, so that others come first until then.
    :ivar load: how many visitors it has; with ``http``, requests. Only groups that need it keep it up to date.
    """

    session: ISession
    number: int
    asked: Public
    public: Public | None = None
    rules: Rules = field(default_factory=Rules)
    granted: Rules = field(default_factory=Rules)
    told: str = ""
    limits: Limits = field(default_factory=Limits)
    budget: Budget | None = None
    account: Account = field(init=False)
    group: Any = None
    is_ready: bool = True
    avoided_until: float = 0.0
    load: int = 0

    @property
    def place(self) -> Public:
        """What it is called in logs."""
        return self.public or self.asked

    @property
    def is_counted(self) -> bool:
        """Whether it is among the tunnels of its client. It is not if that only asks whether it would get it."""
        return self.session.backends.get(self.number) is self

    @property
    def owner(self) -> Owner:
        """What its visitors are counted for."""
        return Owner(self.place, self.session.known_as or self.session, self.session, self.number)
