"""A client, as the parts of the server see it: its session, and each of its tunnels as a backend."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rtunnel.access.limits import Limits
from rtunnel.access.public import Public
from rtunnel.access.rules import Rules
from rtunnel.cluster.interface import Claim
from rtunnel.errors import Refused
from rtunnel.reverse.metering.meter import Budget
from rtunnel.reverse.public import Owner, Visitor
from rtunnel.traffic.accounts import Account
from rtunnel.wire.server_link import ServerLink
from rtunnel.wire.tunnel_request import Behalf


class ISession(Protocol):
    """A client, as ports, routing and the roster see it; see :class:`~rtunnel.reverse.server.session.ServerSession`."""

    link: ServerLink
    client_name: str
    peer_name: str
    address: str
    datagrams: Any
    known_as: tuple[str, str] | None
    node: str

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
    :ivar services: how often its client has named a service that passes, which may be another one each time.
    :ivar avoided_until: it has just refused a request, so that others come first until then.
    :ivar load: how many visitors it has; with ``http``, requests. Only groups that need it keep it up to date.
    :ivar behalf: whose it is, if it is at another node of the cluster, which passes it on; None: the session's own.
    :ivar claim: by which it holds its place in the cluster; None: without one, as at the shared port.
    :ivar party: who counts as its owner in the cluster; empty until that is settled.
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
    services: int = 0
    avoided_until: float = 0.0
    load: int = 0
    behalf: Behalf | None = None
    claim: Claim | None = None
    party: str = ""

    @property
    def may_serve(self) -> bool:
        """Whether new visitors may be given to it: nobody else can have its place."""
        return self.claim is None or self.claim.is_good

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is at another node."""
        return self.behalf is not None

    @property
    def client_name(self) -> str:
        """The name of its client, to which the operator gives rights; empty if unknown."""
        return self.session.client_name if self.behalf is None else self.behalf.client

    @property
    def holder(self) -> tuple[str, str]:
        """Whose it is; see :attr:`ISession.holder`. At another node, that of a client without a name is the node's."""
        return self.session.holder if self.behalf is None or not self.behalf.client else (self.behalf.client, "")

    @property
    def number_of_claim(self) -> int:
        """The fencing number of its claim; 0: there is none."""
        if self.behalf is not None:
            return self.behalf.number
        return 0 if self.claim is None else self.claim.number

    def hear(self, *, is_ready: bool) -> bool:
        """Take note of what its client says about its service. Return whether that is news."""
        self.services += is_ready
        is_news, self.is_ready = self.is_ready != is_ready, is_ready
        return is_news

    def gives_way_to(self, other: Backend) -> bool:
        """Whether it is out of date where *other* serves: at another node, of another owner, by an older claim."""
        if self.behalf is None or self.party == other.party:
            return False
        return other.behalf is None or self.behalf.number < other.behalf.number

    def is_apart_from(self, other: Backend) -> bool:
        """Whether it is not known to be of the same client as *other*."""
        if self.party and self.party == other.party:
            return False
        return self.session is not other.session or self.is_elsewhere

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


class IClaims(Protocol):
    """The claims of this node; see :class:`~rtunnel.reverse.cluster.claims.Claims`."""

    async def hold(self, public: Public, backend: Backend) -> None: ...
    def asking(self, backend: Backend) -> AbstractContextManager[None]: ...
