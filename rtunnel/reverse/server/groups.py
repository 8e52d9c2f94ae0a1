"""Who serves the visitors of one public place: one client, the members of a group, or whoever likes to.

    port, host name --> Group.take(visitor) --+--> the best of its tunnels that can take him
                                              +--> nobody is there, but somebody was a moment ago: he waits in its Line

A group is what clients agree on: they ask for the same place, name the same group, and know the same key. Nobody else
can join, and the rules of all members must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from hmac import compare_digest
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from rtunnel.access.public import Public
from rtunnel.access.rules import Rules, rules_as_json
from rtunnel.errors import Code, Refused
from rtunnel.reverse.public import Visitor
from rtunnel.reverse.server.held import HeldRequest, HeldVisitor, Line, Lobby
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.routing import POLICIES

#: Tunnels of one group.
MOST_MEMBERS = 256
#: Seconds between two looks whether a client that is waited for would still be let in.
LOOK_EVERY = 1.0


def _yes() -> bool:
    return True


class Group:
    """The tunnels of one public place.

    :param lobby: for visitors who wait.
    :param on_over: called with this object when no tunnel is left, and none is waited for.
    :param policy: how visitors are spread if everybody may join; None: only members of a group may.
    :ivar rules: those of all members.
    """

    def __init__(
        self, reactor: Any, public: Public, lobby: Lobby, on_over: Callable[[Group], None], policy: str = ""
    ) -> None:
        self.public = public
        self.rules = Rules()
        self._reactor = reactor
        self._lobby = lobby
        self._on_over = on_over
        self._is_open = bool(policy)
        self._backends = POLICIES[policy or self.rules.balance]()
        self._members: dict[Backend, None] = {}
        self._line = Line(reactor)
        self._last_holder: object = None
        self._until = 0.0
        self._may_stay = _yes
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
                self._line.turn_away()
            if not self._is_open:
                if backend.rules != self.rules:
                    self.rules = backend.rules
                self._backends = POLICIES[self.rules.balance]()
        self._may_stay = _yes
        backend.group = self
        self._members[backend] = None
        self._backends.join(backend)
        if self._backends.needs_loads:
            backend.session.balancers[self] = None
        if self._line:
            # Behind READY. Those for whom there is no room yet wait until the time is over.
            self._line.serve_soon()
        else:
            self._stop_holding()

    def may_return(self, backend: Backend) -> bool:
        """Return whether *backend* is of the client or group that those wait for who came when it was away."""
        if self._is_open or backend.session.holder == self._last_holder:
            return True
        own, rules = backend.rules, self.rules
        return bool(own.group) and (own.group, own.group_key) == (rules.group, rules.group_key)

    def leave(self, backend: Backend, hold: float = 0.0, may_stay: Callable[[], bool] = _yes) -> None:
        """Remove *backend*.

        :param hold: if it was the last one, seconds for which visitors wait for another.
        :param may_stay: tells whether its client would be let in now.
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
        self._line.stop_serving()
        self._stop_holding()
        if hold > 0:
            self._until = self._reactor.seconds() + hold
            self._may_stay = may_stay
            self._look()
        else:
            self.end()

    # Waiting

    @property
    def is_held(self) -> bool:
        """Whether visitors wait: for a tunnel, as there is none for a moment, or behind others who have waited."""
        return self._hold_call is not None and bool(self._line or not self._members)

    def _stop_holding(self) -> None:
        call, self._hold_call = self._hold_call, None
        if call is not None and call.active():
            call.cancel()

    def _look(self) -> None:
        self._hold_call = None
        left = self._until - self._reactor.seconds()
        if left > 0 and self._may_stay():
            self._hold_call = self._reactor.callLater(min(left, LOOK_EVERY), self._look)
        else:
            self._time_is_over()

    def _time_is_over(self) -> None:
        count = len(self._line)
        why = "could not take all of them in time" if self._members else "has not come back"
        self.end()
        if count:
            text = "{place}: {count} visitors have waited for the client, which {why}; they are closed"
            self._lobby.limiter.info(text, place=str(self.public), count=count, why=why)

    def end(self) -> None:
        """Turn away those that wait. Without a tunnel, the place is free then."""
        self._stop_holding()
        self._line.turn_away()
        if not self._members:
            self._on_over(self)

    # Visitors

    def load_changed(self, session: Any) -> None:
        """Take note that the link of a member has more streams, or fewer."""
        self._backends.load_changed(session)

    def candidates(self, prefix: str) -> Iterator[Backend]:
        """Yield every tunnel once, the one that should serve the next visitor first.

        If the service of one is known not to answer, it comes behind all others.

        :param prefix: the key under which the visitor's address is counted.
        """
        later = []
        for backend in self._backends.candidates(prefix):
            if backend.is_ready:
                yield backend
            else:
                later.append(backend)
        yield from later

    def take(self, visitor: Visitor) -> bool:
        """Give a visitor to a tunnel, or let him wait for one. Return False if neither can be."""
        visitor.home = self.take
        if self.is_held:
            HeldVisitor(self._lobby, self._line, self, visitor, self._serve)
            return True
        return any(backend.session.open_visitor(backend.number, visitor) for backend in self.candidates(visitor.prefix))

    def _serve(self, visitor: Visitor) -> bool:
        return any(
            backend.session.has_room(backend.number) and backend.session.open_visitor(backend.number, visitor)
            for backend in self.candidates(visitor.prefix)
        )

    def ask(self, has_room: Callable[[], bool]) -> HeldRequest:
        """Let an HTTP request wait. Only if the place :attr:`is_held`.

        :param has_room: tells whether it can be served now.
        """
        return HeldRequest(self._line, has_room)
