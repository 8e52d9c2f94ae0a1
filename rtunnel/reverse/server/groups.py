"""Who serves the visitors of one public place: one client, the members of a group, or whoever likes to.

    port, host name --> Group.take(visitor) --+--> the best of its tunnels that can take him
                                              +--> nobody is there, but somebody was a moment ago: the visitor waits

A group is what clients agree on: they ask for the same place, name the same group, and know the same key. Nobody else
can join, and the rules of all members must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from hmac import compare_digest
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from rtunnel.access.public import Public
from rtunnel.access.rules import Rules, rules_as_json
from rtunnel.errors import Code, Refused
from rtunnel.reverse.carriers.waiting import Waiting
from rtunnel.reverse.public import Visitor
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.routing import POLICIES
from rtunnel.upkeep.visitors import Visitors

#: Tunnels of one group.
MOST_MEMBERS = 256
#: Visitors, and HTTP requests, that may wait for the tunnels of one place.
MOST_WAITING = 1024


class Group:
    """The tunnels of one public place.

    :param on_over: called with this object when no tunnel is left, and none is waited for.
    :param policy: how visitors are spread if everybody may join; None: only members of a group may.
    :ivar rules: those of all members.
    """

    def __init__(
        self, reactor: Any, public: Public, visitors: Visitors, on_over: Callable[[Group], None], policy: str = ""
    ) -> None:
        self.public = public
        self.rules = Rules()
        self._reactor = reactor
        self._visitors = visitors
        self._on_over = on_over
        self._is_open = bool(policy)
        self._backends = POLICIES[policy or self.rules.balance]()
        self._members: dict[Backend, None] = {}
        self._waiting: dict[Waiting, None] = {}
        self._asking: list[Deferred[None]] = []
        self._last_holder: object = None
        self._hold_call: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._members)

    # Members

    def has_part(self, backend: Backend) -> bool:
        """Return whether *backend* is of the same group as the members, and may join.

        :raises Refused: it is of that group, and may not.
        """
        if self._is_open:
            return True
        rules, own = self.rules, backend.rules
        if not own.group or own.group != rules.group:
            return False
        code = Code.HOST_IN_USE if self.public.host else Code.PORT_IN_USE
        if not compare_digest(rules.group_key.encode(), own.group_key.encode()):
            raise Refused(code, f"{self.public} is served by the group '{own.group}', which has another group-key")
        if not self._members:
            return True  # its rules begin anew
        if any(member.session is backend.session for member in self._members):
            raise Refused(code, f"this client serves {self.public} already")
        if len(self._members) >= MOST_MEMBERS:
            raise Refused(Code.LIMIT, f"the group '{own.group}' has {MOST_MEMBERS} members, its limit")
        if replace(own, group_key="") != replace(rules, group_key=""):
            theirs, ours = rules_as_json(rules), rules_as_json(own)
            key = next(key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key))
            text = f"the other members of the group '{own.group}' have another '{key}'; write the same for all"
            raise Refused(code, text)
        return True

    def join(self, backend: Backend) -> None:
        """Let *backend* serve visitors, first those that wait."""
        if not self._members:
            if not self.may_return(backend):
                self._give_up_waiting()
            if not self._is_open:
                self.rules = backend.rules
                self._backends = POLICIES[self.rules.balance]()
        self._stop_holding()
        backend.group = self
        self._members[backend] = None
        self._backends.join(backend)
        if self._backends.needs_loads:
            backend.session.balancers[self] = None
        if self._waiting or self._asking:
            # Behind READY.
            self._reactor.callLater(0, self._serve_waiting)

    def may_return(self, backend: Backend) -> bool:
        """Return whether *backend* is of the client or group that those wait for who came when it was away."""
        if self._is_open or backend.session.holder == self._last_holder:
            return True
        own, rules = backend.rules, self.rules
        return bool(own.group) and (own.group, own.group_key) == (rules.group, rules.group_key)

    def leave(self, backend: Backend, hold: float = 0.0) -> None:
        """Remove *backend*.

        :param hold: if it was the last one, seconds for which visitors wait for another.
        """
        if backend not in self._members:
            return
        del self._members[backend]
        self._backends.leave(backend)
        backend.session.balancers.pop(self, None)
        backend.group = None
        if self._members:
            return
        self._last_holder = backend.session.holder
        if hold > 0:
            self._hold_call = self._reactor.callLater(hold, self._nobody_came)
        else:
            self.end()

    @property
    def is_held(self) -> bool:
        """Whether visitors wait for a tunnel, as there is none for a moment."""
        return self._hold_call is not None

    def _stop_holding(self) -> None:
        call, self._hold_call = self._hold_call, None
        if call is not None and call.active():
            call.cancel()

    def _nobody_came(self) -> None:
        self._hold_call = None
        self.end()

    def end(self) -> None:
        """Turn away those that wait, as no tunnel is left. Only without members."""
        self._stop_holding()
        self._give_up_waiting()
        self._on_over(self)

    # Visitors

    def load_changed(self, session: Any) -> None:
        """Take note that the link of a member has more streams, or fewer."""
        self._backends.load_changed(session)

    def candidates(self, prefix: str) -> Iterator[Backend]:
        """Yield every tunnel once whose quota is not used up, the one that should serve the next visitor first.

        If the service of one is known not to answer, it comes behind all others.

        :param prefix: the key under which the visitor's address is counted.
        """
        later = []
        for backend in self._backends.candidates(prefix):
            if backend.budget is not None and backend.budget.used_up is not None:
                continue
            if backend.is_ready:
                yield backend
            else:
                later.append(backend)
        yield from later

    @property
    def is_used_up(self) -> bool:
        """Whether there are tunnels, and the quotas of all are used up."""
        backends = self._members
        return bool(backends) and all(each.budget is not None and each.budget.used_up for each in backends)

    def take(self, visitor: Visitor) -> bool:
        """Give a visitor to a tunnel, or let him wait for one. Return False if neither can be."""
        for backend in self.candidates(visitor.prefix):
            if backend.session.open_visitor(backend.number, visitor):
                return True
        if self._hold_call is None or len(self._waiting) >= MOST_WAITING:
            return False
        visitor.wait()
        waiting = Waiting(self._turn_away, visitor, 0, self._hold_call.getTime())
        self._waiting[waiting] = None
        self._visitors.add(waiting, visitor.prefix, self)
        return True

    def ask(self) -> Deferred[None] | None:
        """Return what fires when a tunnel is there, or when none is waited for any longer; None: nobody is waited for.

        For requests, which wait on connections that are counted already.
        """
        if self._hold_call is None or len(self._asking) >= MOST_WAITING:
            return None
        asking: Deferred[None] = Deferred()
        self._asking.append(asking)
        return asking

    def _serve_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for each in waiting:
            self._visitors.discard(each)
            if not self.take(each.visitor):
                each.visitor.abort()
        self._answer()

    def _answer(self) -> None:
        asking, self._asking = self._asking, []
        for each in asking:
            each.callback(None)

    def _turn_away(self, waiting: Waiting) -> None:
        if waiting in self._waiting:
            del self._waiting[waiting]
            self._visitors.discard(waiting)
            waiting.visitor.abort()

    def _give_up_waiting(self) -> None:
        for waiting in list(self._waiting):
            self._turn_away(waiting)
        self._answer()
