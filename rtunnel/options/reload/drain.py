"""``rtunnel drain``: a process takes no new visitors, and ends when it has none.

    as ever -> told (/readyz says 503; visitors are still taken) -> stopping, as after SIGTERM, without a limit -> end

A load balancer that asks ``/readyz`` needs a while before it sends nobody any more. So ports close only after the
*notice*, if there is a status port where it can ask. One that connects sees by that that nobody listens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from rtunnel.coercions import seconds, show_seconds
from rtunnel.control.actions.perform import only
from rtunnel.errors import ConfigError

#: Seconds for which new visitors are still taken. Load balancers ask every few seconds, and believe the third answer.
NOTICE = 10.0


class Drain:
    """Lets a process end when it is idle.

    :param service: may have a method ``set_drain``; see :class:`~rtunnel.upkeep.draining.DrainingService`.
    :param limit: returns the seconds that visitors have to finish after SIGTERM.
    :param can_be_asked: returns whether load balancers can ask ``/readyz``.
    :ivar has_begun: the process is about to end.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, service: Any, limit: Callable[[], float], can_be_asked: Callable[[], bool]
    ) -> None:
        self.has_begun = False
        self._reactor = reactor
        self._service = service
        self._limit = limit
        self._can_be_asked = can_be_asked
        self._notice: IDelayedCall | None = None

    def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Begin, or give another limit to what has begun. Return how many visitors there are.

        :param asked: ``within``, the seconds that visitors have from the end of the notice; as much as they need, if
            it is not there.
        :raises ConfigError: that is no time.
        """
        only(asked, "within")
        within = time_of(asked, "within", inf)
        had_begun, self.has_begun = self.has_begun, True
        if not had_begun or "within" in asked:
            self._set_limit(within)
        if not had_begun:
            notice = NOTICE if self._can_be_asked() else 0.0
            self.log.info(
                "draining: {told}no more visitors are taken{limit}",
                told=f"/readyz says so; in {show_seconds(notice)} s " if notice else "",
                limit="" if within == inf else f", and those there are have {show_seconds(within)} s to finish",
            )
            self._notice = self._reactor.callLater(notice, self._stop)
        return {"visitors": self._visitors, "had_begun": had_begun}

    @property
    def _visitors(self) -> int | None:
        """How many visitors there are; None: this service has none."""
        visitors = getattr(self._service, "visitors", None)
        return None if visitors is None else len(visitors)

    def _set_limit(self, limit: float) -> None:
        set_drain = getattr(self._service, "set_drain", None)
        if set_drain is not None:
            set_drain(limit)

    def stop(self, limit: float) -> None:
        """Take no more visitors now, and let those there are have *limit* seconds to finish."""
        self.has_begun = True
        self._set_limit(limit)
        self._stop()

    def _stop(self) -> None:
        self._notice = None
        # Something else may have stopped it.
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def hurry(self) -> None:
        """Give visitors the time that they have after SIGTERM, which has come."""
        if self.has_begun:
            self._set_limit(self._limit())
            if self._notice is not None:
                self._notice.cancel()
                self._notice = None
        self.has_begun = True


_seconds = seconds(zero=True)


def time_of(asked: dict[str, Any], name: str, default: float) -> float:
    """Return the seconds under a key.

    :param default: if it is not there.
    :raises ConfigError: it is no time.
    """
    if name not in asked:
        return default
    try:
        return float(_seconds(asked[name]))
    except ConfigError as error:
        raise ConfigError(f"'{name}': {error}") from error
