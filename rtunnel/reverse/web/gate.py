"""Who may send a request to a tunnel: networks, how many at once or a second, and passwords."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred

from rtunnel.access.limits import MAY_NOT_COME, Limits
from rtunnel.access.passwords import Passwords, Verdict
from rtunnel.reverse.web.answers import Answer
from rtunnel.wire.web.heads import RequestHead


class Gate:
    """Who may send a request to one tunnel.

    :param limits: the rules about addresses.
    :param users: who may come with a password, see :class:`~rtunnel.access.rules.Rules`; empty: everybody without.
    :param what: the tunnel, for pages.
    :param on_refused: called with the address of whoever *limits* refuse, and the reason.
    :ivar at_once: how many requests are under way that are counted, by the key of the address.
    """

    def __init__(
        self,
        limits: Limits,
        users: Sequence[tuple[str, str]],
        what: str,
        passwords: Passwords,
        on_refused: Callable[[str, str], None],
    ) -> None:
        self._limits = limits
        self._users = tuple(users)
        self._what = what
        self._passwords = passwords
        self._on_refused = on_refused
        self.at_once: Counter[str] = Counter()

    @property
    def is_open(self) -> bool:
        """Whether nobody is refused, or counted."""
        return self._limits.is_open and not self._users

    def enter(
        self, head: RequestHead, address: str, prefix: str, now: float
    ) -> Answer | Deferred[Answer | None] | None:
        """Let a request in, or answer why not. Whoever is let in leaves again by :meth:`leave`.

        :param address: whose request it is.
        :param prefix: the key under which *address* is counted.
        """
        if self.is_open:
            return None
        why = self._limits.why_no_request(address, prefix, self.at_once.get(prefix, 0), now)
        if why:
            self._on_refused(address, why)
            if why == MAY_NOT_COME:
                return Answer(403, f"your address may not use {self._what}")
            return Answer(429, f"{why.replace('its', 'your', 1)} ({self._what})", [("Retry-After", "1")])
        self.at_once[prefix] += 1
        if self._users:
            verdict = self._passwords.check(self._users, head.authorization, prefix)
            if isinstance(verdict, Deferred):
                answer: Deferred[Answer | None] = verdict.addCallback(self._judged, prefix)
                return answer
            return self._judged(verdict, prefix)
        return None

    def _judged(self, verdict: Verdict, prefix: str) -> Answer | None:
        if verdict is not Verdict.RIGHT:
            self.leave(prefix)
        if verdict is Verdict.LATER:
            return Answer(429, "there were too many wrong passwords; try again later", [("Retry-After", "10")])
        if verdict is Verdict.WRONG:
            challenge = 'Basic realm="rtunnel", charset="UTF-8"'
            return Answer(401, f"{self._what} wants a name and a password", [("WWW-Authenticate", challenge)])
        return None

    def leave(self, prefix: str) -> None:
        """Take note that a request is over. It may have come when nobody was counted."""
        count = self.at_once.get(prefix, 0)
        if count > 1:
            self.at_once[prefix] = count - 1
        elif count:
            del self.at_once[prefix]
