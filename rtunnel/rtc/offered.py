"""The services that ``rtc-host`` offers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger

from rtunnel.addresses import DialAddress
from rtunnel.rtc.settings import HostSettings, ServiceSettings
from rtunnel.services.watch import ServiceWatch, may_try
from rtunnel.traffic.accounts import DEFAULT, Accounts
from rtunnel.upkeep.log_limiter import LogLimiter


class Service:
    """A service, and for TCP whether it answers.

    :param turns: see :func:`~rtunnel.services.watch.may_try`.
    :ivar account: counts what its visitors send and get.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        reactor: Any,
        dial_timeout: float,
        turns: DeferredSemaphore | None,
        accounts: Accounts,
    ) -> None:
        self.settings = settings
        self.account = accounts.of("", settings.name or DEFAULT)
        self.endpoint: IStreamClientEndpoint | None = None
        self.watch: ServiceWatch | None = None
        if isinstance(settings.remote, DialAddress):
            self.endpoint = settings.remote.endpoint(reactor, dial_timeout)
            self.watch = ServiceWatch(reactor, settings.remote, dial_timeout, turns)

    def start(self, host: str, log: Logger, limiter: LogLimiter) -> None:
        """Log that it is offered, and whether it answers once that is known.

        :param host: the ID under which clients find it.
        """
        settings = self.settings
        what = "host '{id}' offers {kind} {remote}{name}"
        fields = {
            "id": host,
            "kind": settings.protocol,
            "remote": settings.remote,
            "name": f" as service '{settings.name}'" if settings.name else "",
        }
        if self.watch is None:
            log.info(what, **fields)
        else:
            self.watch.start(log, limiter, what + "; it", **fields)

    def stop(self) -> None:
        """Look no more whether it answers."""
        if self.watch is not None:
            self.watch.stop()


def services_of(settings: HostSettings, reactor: Any, accounts: Accounts) -> Mapping[str, Service]:
    """Return the services that a host is to offer, by their names."""
    turns = may_try(settings.check_services)
    return {one.name: Service(one, reactor, settings.dial_timeout, turns, accounts) for one in settings.services}


def are_dialled_alike(one: HostSettings, other: HostSettings) -> bool:
    """Return whether services that are the same need not be made anew."""
    return (one.dial_timeout, one.check_services) == (other.dial_timeout, other.check_services)


def meant(offered: Collection[str], name: str, allowed: Collection[str] | None) -> str:
    """Return the name of the service that a client means.

    :param offered: the names of all services.
    :param name: what it asks for; empty: the default service, or if it may use none, the only service that it may use.
    :param allowed: the services that it may use; None: all.
    """
    may = [each for each in offered if allowed is None or each in allowed]
    return may[0] if not name and len(may) == 1 else name
