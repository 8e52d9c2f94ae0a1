"""Who serves the visitors of one public place: one client, the members of a group, or whoever likes to.

    port, host name --> Group.take(visitor) --+--> the best of its tunnels that can take him
                                              +--> nobody is there, but somebody was a moment ago: he waits in its Line

A group is what clients agree on: they ask for the same place, name the same group, and know the same key. Nobody else
can join, and the rules of all members must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any

from rtunnel.access.limits import MAY_NOT_COME, Limits
from rtunnel.access.public import Public
from rtunnel.access.rules import Rules, rules_as_json
from rtunnel.errors import Code, Refused
from rtunnel.reverse.public import Owner, Visitor
from rtunnel.reverse.server.held import HeldRequest, HeldVisitor, Line, Lobby, anybody
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.refusals import Refusals
from rtunnel.reverse.server.routing import POLICIES
from rtunnel.reverse.server.take_over import are_one_group, why_apart

#: Tunnels of one group.
MOST_MEMBERS = 256
#: Seconds in which a tunnel that has refused a request comes behind the others.
AVOID = 1.0


class Group:
    """The tunnels of one public place.

    :param lobby: for visitors who wait.
    :param refusals: tells who is turned away.
    :param on_over: called with this object when no tunnel is left, and none is waited for.
    :param policy: how visitors are spread if everybody may join; None: only members of a group may.
    :ivar rules: those of all members.
    :ivar limits: who may come by these rules and by what the clients file says of any member. Where everybody may join,
        each member has its own.
    :ivar on_limited: called when *limits* may have changed.
    :ivar on_change: called when a tunnel has joined or left, or none is waited for any more.
    """

    def __init__(
        self,
        reactor: Any,
        public: Public,
        lobby: Lobby,
        refusals: Refusals,
        on_over: Callable[[Group], None],
        policy: str = "",
    ) -> None:
        self.public = public
        self.rules = Rules()
        self.limits = Limits("flows" if public.protocol == "udp" else "connections")
        self.on_limited: Callable[[], None] = _do_nothing
        self.on_change: Callable[[], None] = _do_nothing
        self._reactor = reactor
        self._lobby = lobby
        self._visitors = lobby.visitors
        self._refusals = refusals
        self._on_over = on_over
        self._is_open = bool(policy)
        self._backends = POLICIES[policy or self.rules.balance](by_link=not policy)
        self._members: dict[Backend, None] = {}
        self._only: Backend | None = None
        self._line = Line(reactor, self._time_is_over)
        self._last_holders: list[object] = []
        self._last_party = ""

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._members)

    @property
    def only(self) -> Backend | None:
        """The member, if there is only one, if it may serve and its quota is not used up."""
        only = self._only
        if only is None or not only.may_serve:
            return None
        return only if only.budget is None or only.budget.used_up is None else None

    @property
    def is_plain(self) -> bool:
        """Whether there is :attr:`only` one member, and nobody is waited for. This costs the least."""
        return not self._line.is_open and self.only is not None

    @property
    def is_held_here(self) -> bool:
        """Whether a client of this node serves, or nobody does and one is waited for."""
        if not self._members:
            return self._line.is_open
        return any(not member.is_elsewhere for member in self._members)

    @property
    def needs_loads(self) -> bool:
        """Whether it wants to know how many requests members have; see :meth:`set_load`."""
        return self._backends.needs_loads

    def use_policy(self, policy: str) -> None:
        """Spread visitors in another way, where everybody may join."""
        self._backends = POLICIES[policy]()
        for backend in self._members:
            self._backends.join(backend)

    # Members

    def why_apart(self, backend: Backend) -> str:
        """Return why *backend* may not serve beside the members, as its operator should know it; empty if it may."""
        if self._is_open or not self._members:
            return ""
        if not (members := [member for member in self._members if not member.gives_way_to(backend)]):
            return ""
        what, own, rules = self.public.host or self.public, backend.rules, self.rules
        if any(member.session is backend.session and not backend.is_elsewhere for member in members):
            return f"this client serves {self.public} already"
        if any(backend.is_apart_from(member) for member in members) and (why := why_apart(what, own, rules)):
            return why
        ours, theirs = rules_as_json(own), rules_as_json(rules)
        for key in {**theirs, **ours}:
            if ours.get(key) != theirs.get(key):
                return f"the other members of the group '{own.group}' have another '{key}'; write the same for all"
        if len(self._members) >= MOST_MEMBERS:
            return f"the group '{own.group}' has {MOST_MEMBERS} members, the most that may be"
        return ""

    def join(self, backend: Backend) -> None:
        """Let *backend* serve visitors, first those that wait."""
        if not self._members:
            if not self.may_return(backend):
                self._line.turn_away()
                self._last_holders = []
            if not self._is_open:
                if backend.rules != self.rules:
                    self.rules = backend.rules
                self._backends = POLICIES[self.rules.balance](by_link=True)
        self._line.may_stay = anybody
        backend.group = self
        self._members[backend] = None
        self._only = backend if len(self._members) == 1 else None
        self._backends.join(backend)
        self.limit(backend)
        if self._line:
            # Behind READY. Those for whom there is no room yet wait until the time is over.
            self._line.serve_soon()
        else:
            self._line.stop_holding()
        self.on_change()

    def override(self, backend: Backend) -> None:
        """Let go of tunnels at other nodes that are out of date, as *backend* has the place now."""
        for member in [each for each in self._members if each.gives_way_to(backend)]:
            member.session.revoke_tunnel(member, Refused(Code.LIMIT, f"{self.public} is another client's now"))

    def may_return(self, backend: Backend) -> bool:
        """Return whether *backend* is of the client or group that those wait for who came when it was away."""
        if self._is_open or backend.holder in self._last_holders:
            return True
        if backend.party and backend.party == self._last_party:
            return True
        return are_one_group(backend.rules, self.rules)

    def leave(self, backend: Backend, hold: float = 0.0, may_stay: Callable[[], bool] = anybody) -> None:
        """Remove *backend*.

        :param hold: if it was the last one, seconds for which visitors wait for another.
        :param may_stay: tells whether its client would be let in now.
        """
        if backend not in self._members:
            return
        del self._members[backend]
        self._only = next(iter(self._members)) if len(self._members) == 1 else None
        self._backends.leave(backend)
        backend.group = None
        if self._members:
            if not backend.is_elsewhere:
                self._last_holders = [backend.holder]  # by which its client comes back here if other nodes lose it too
            self.limit(backend)
            self.on_change()
            return
        self._line.stop_serving()
        self._line.stop_holding()
        self._last_party = backend.party
        self.expect([backend.holder, *self._last_holders][:2], hold, may_stay)
        self.on_change()

    # Waiting

    def expect(self, holders: Collection[object], hold: float, may_stay: Callable[[], bool] = anybody) -> None:
        """Let visitors wait for a tunnel, as there is none.

        :param holders: whose tunnels they wait for; see :attr:`~rtunnel.reverse.server.interfaces.ISession.holder`.
        :param hold: see :meth:`leave`.
        :param may_stay: see :meth:`leave`.
        """
        self._last_holders = [*holders]
        if hold > 0:
            self._line.hold(hold, may_stay)
        else:
            self.end()

    @property
    def holders(self) -> Collection[Any]:
        """Whose tunnels serve, or are waited for."""
        return [member.holder for member in self._members] or self._last_holders

    @property
    def is_held(self) -> bool:
        """Whether visitors wait: for a tunnel, as there is none for a moment, or behind others who have waited."""
        return self._line.is_open and bool(self._line or not self._members)

    def _time_is_over(self) -> None:
        count = len(self._line)
        why = "could not take all of them in time" if self._members else "has not come back"
        self.end()
        if count:
            text = "{place}: {count} visitors have waited for the client, which {why}; they are closed"
            self._lobby.limiter.info(text, place=str(self.public), count=count, why=why)

    def end(self) -> None:
        """Turn away those that wait. Without a tunnel, the place is free then."""
        self._line.stop_holding()
        self._line.turn_away()
        if not self._members:
            self._on_over(self)
        self.on_change()

    # Who may come

    def limit(self, backend: Backend) -> None:
        """Let the rules of *backend*, which has joined, left or changed, hold from now on."""
        now = self._reactor.seconds()
        if self._is_open:
            backend.limits.use((backend.rules, backend.granted), now)
        else:
            granted = {id(member.granted): member.granted for member in self._members}
            self.limits.use((self.rules, *granted.values()), now)
            self.on_limited()

    def why_not(self, address: str, prefix: str, at_once: Callable[[str], int]) -> str:
        """Return why the rules refuse a new visitor; see :meth:`Limits.why_not`."""
        return self.limits.why_not(address, prefix, at_once, self._reactor.seconds())

    def _count_here(self, prefix: str) -> int:
        return self._visitors.descriptors.count_if(prefix, self._is_here)

    def _is_here(self, owner: Hashable) -> bool:
        return isinstance(owner, Owner) and owner.public == self.public

    def _why_not_to(self, backend: Backend, visitor: Visitor) -> str:
        client = backend.owner.client

        def is_its(owner: Hashable) -> bool:
            return self._is_here(owner) and isinstance(owner, Owner) and owner.client == client

        def count(prefix: str) -> int:
            return self._visitors.descriptors.count_if(prefix, is_its)

        address = getattr(visitor.address, "host", "")
        return backend.limits.why_not(address, visitor.prefix, count, self._reactor.seconds())

    def refused(self, address: str, name: str, why: str) -> None:
        """Tell who was turned away; see :meth:`Refusals.refused`."""
        self._refusals.refused(self, self.public, address, name, why)

    def _refuse(self, by: Group | Backend, visitor: Visitor, why: str) -> None:
        self._refusals.refused(by, self.public, getattr(visitor.address, "host", ""), visitor.name, why)
        visitor.abort()

    # Visitors

    def set_load(self, backend: Backend, load: int) -> None:
        """Take note of how many visitors a member has now, or requests, if that counts here."""
        if self._backends.needs_loads and backend in self._members:
            backend.load = load
            self._backends.load_changed(backend)

    def avoid(self, backend: Backend) -> None:
        """Let the other members come first for a moment, as *backend* has refused a request."""
        backend.avoided_until = self._reactor.seconds() + AVOID

    def candidates(self, prefix: str) -> Iterator[Backend]:
        """Yield every tunnel once whose quota is not used up, the one that should serve the next visitor first.

        Those at other nodes come behind the others, then those that have just refused a request, and last those whose
        services do not answer.

        :param prefix: the key under which the visitor's address is counted.
        """
        if len(self._members) == 1:
            if (only := self.only) is not None:
                yield only
            return
        far: list[Backend] = []
        later: list[Backend] = []
        last: list[Backend] = []
        now = self._reactor.seconds()
        for backend in self._backends.candidates(prefix):
            if not backend.may_serve or (backend.budget is not None and backend.budget.used_up is not None):
                continue
            if not backend.is_ready:
                last.append(backend)
            elif backend.avoided_until > now:
                later.append(backend)
            elif backend.is_elsewhere:
                far.append(backend)
            else:
                yield backend
        for backend in [*far, *later, *last]:
            self._backends.had_turn(backend)
            yield backend

    @property
    def is_used_up(self) -> bool:
        """Whether there are tunnels, and the quotas of all are used up."""
        for backend in self._members:
            if backend.budget is None or backend.budget.used_up is None:
                return False
        return bool(self._members)

    def take(self, visitor: Visitor) -> bool:
        """Give a visitor to a tunnel, let him wait for one, or turn him away if he may not come.

        :returns: False if nobody can serve him now, and he cannot wait.
        """
        why = self.why_not(getattr(visitor.address, "host", ""), visitor.prefix, self._count_here)
        if why:
            self._refuse(self, visitor, why)
            return True
        visitor.home = self._seat
        return self._seat(visitor)

    def _seat(self, visitor: Visitor) -> bool:
        """Do the same for a visitor who may come, also if a carrier that had not told anybody of him gives him back."""
        if self.is_held:
            if not self._lobby.hand_on(self.public, visitor, self._line.left):
                self._let_wait(visitor)
            return True
        return self._give(visitor, has_waited=False) or self._lobby.hand_on(self.public, visitor, None)

    def _let_wait(self, visitor: Visitor) -> None:
        visitor.owner = owner = Owner(self.public)
        HeldVisitor(self._lobby, self._line, owner, visitor, self._serve)

    def hand_on(self) -> None:
        """Let visitors who wait do so in another process, now that there is :attr:`Lobby.heir`."""
        for visitor in self._line.release():
            if not self._lobby.hand_on(self.public, visitor, self._line.left):
                visitor.abort()

    def take_back(self, visitor: Visitor, left: float | None) -> bool:
        """Let a visitor wait who has waited in another process. Return False if he has waited for somebody else.

        :param left: see :data:`~rtunnel.reverse.server.held.Heir`.
        """
        is_expected = any(map(self.may_return, self._members)) if self._members else self._line.is_open
        if not is_expected or self._lobby.hand_on(self.public, visitor, left):
            return is_expected
        visitor.home = self._seat
        self._let_wait(visitor)
        self._line.hold_on(left)
        if self._members:
            self._line.serve_soon()
        return True

    def _serve(self, visitor: Visitor) -> bool:
        """Give a visitor who has waited to a tunnel; return False if none has room for him yet."""
        if not self.limits.admits(getattr(visitor.address, "host", "")):
            self._refuse(self, visitor, MAY_NOT_COME)  # the rules have changed
            return True
        return self._give(visitor, has_waited=True)

    def _give(self, visitor: Visitor, *, has_waited: bool) -> bool:
        refusal: tuple[Backend, str] | None = None
        for backend in self.candidates(visitor.prefix):
            if has_waited and not backend.session.has_room(backend.number):
                continue
            visitor.owner, visitor.account = backend.owner, backend.account
            if self._is_open and (why := self._why_not_to(backend, visitor)):
                refusal = backend, why
            elif backend.session.open_visitor(backend.number, visitor):
                return True
        if refusal is not None:
            self._refuse(refusal[0], visitor, refusal[1])
        return refusal is not None

    def ask(self, has_room: Callable[[], bool]) -> HeldRequest:
        """Let an HTTP request wait. Only if the place :attr:`is_held`.

        :param has_room: tells whether it can be served now.
        """
        return HeldRequest(self._line, has_room)


def _do_nothing() -> None:
    pass
