"""Who may send a request to a tunnel: networks, passwords, and how many at once or a second."""

from __future__ import annotations

from collections import Counter

from twisted.internet.defer import Deferred

from rtunnel.access.passwords import Passwords, Verdict
from rtunnel.access.rules import Rules
from rtunnel.reverse.web.answers import Answer
from rtunnel.upkeep.token_bucket import KeyedBuckets
from rtunnel.wire.web.heads import RequestHead

#: Seconds for which an address may save up requests.
BURST = 2.0
#: Requests a second of all addresses together: there is no such bound.
_MANY = 1e9


class Gate:
    """Who may send a request to one tunnel.

    :param what: the tunnel, for pages.
    :param now: the time, in seconds.
    """

    def __init__(self, rules: Rules, what: str, passwords: Passwords, now: float) -> None:
        self._rules = rules
        self._what = what
        self._passwords = passwords
        self._at_once: Counter[str] = Counter()
        rate = rules.requests
        self._is_open = rules == Rules(
            request_headers=rules.request_headers,
            response_headers=rules.response_headers,
            redirect_https=rules.redirect_https,
        )
        self._buckets = KeyedBuckets(rate, max(1.0, BURST * rate), _MANY, _MANY, now) if rate is not None else None

    def enter(
        self, head: RequestHead, address: str, prefix: str, now: float
    ) -> Answer | Deferred[Answer | None] | None:
        """Let a request in, or answer why not. Whoever is let in leaves again by :meth:`leave`.

        :param address: whose request it is.
        :param prefix: the key under which *address* is counted.
        """
        rules = self._rules
        if self._is_open:
            return None
        if not rules.admits(address):
            return Answer(403, f"your address may not use {self._what}")
        if self._buckets is not None and not self._buckets.take(prefix, 1, now):
            return Answer(429, f"your address sends too many requests to {self._what}", [("Retry-After", "1")])
        if rules.connections is not None and self._at_once[prefix] >= rules.connections:
            return Answer(429, f"your address has too many requests at {self._what} at once", [("Retry-After", "1")])
        if rules.connections is not None:
            self._at_once[prefix] += 1
        if rules.users:
            verdict = self._passwords.check(rules.users, head.authorization, prefix)
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
        """Take note that a request is over."""
        if self._rules.connections is not None:
            self._at_once[prefix] -= 1
            if self._at_once[prefix] <= 0:
                del self._at_once[prefix]
