"""One watch of a local service, whatever the number of links that publish it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from rtunnel.services.health import HealthWatch
from rtunnel.services.watch import ServiceWatch
from rtunnel.upkeep.log_limiter import LogLimiter

#: What tells whether a service answers.
Watch = ServiceWatch | HealthWatch


class SharedWatch:
    """What several users have of a watch. The first one starts it, and the last one stops it.

    The log says once for each user how the service is, and what changes later, once for all of them.

    :param watch: nobody else may start or stop it.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        # How each speaks of the service, and what it does when that changes; the first one speaks.
        self._users: dict[object, tuple[Callable[[], None], Callable[[], None]]] = {}
        if isinstance(watch, HealthWatch):
            watch.on_change = self._changed

    def start(
        self,
        user: object,
        on_change: Callable[[], None],
        log: Logger,
        limiter: LogLimiter,
        what: str,
        meanwhile: str,
        /,
        **fields: Any,
    ) -> None:
        """Watch the service for *user*.

        :param on_change: called when a health check changes its mind.

        The others are as in :meth:`ServiceWatch.start`.
        """
        self._users.pop(user, None)

        def speak() -> None:
            self.watch.speak_of(log, limiter, what, meanwhile, **fields)

        is_first = not self._users
        self._users[user] = speak, on_change
        if is_first:
            self.watch.start(log, limiter, what, meanwhile, **fields)
        else:
            self.watch.say(log, what, meanwhile, **fields)

    def stop(self, user: object) -> None:
        """Watch it no more for *user*. May be called again."""
        if self._users.pop(user, None) is None:
            return
        if not self._users:
            self.watch.stop()
        else:
            speak, _ = next(iter(self._users.values()))
            speak()

    def end(self) -> None:
        """Watch it no more for anybody."""
        self._users.clear()
        self.watch.stop()

    def _changed(self) -> None:
        for _, on_change in list(self._users.values()):
            on_change()
