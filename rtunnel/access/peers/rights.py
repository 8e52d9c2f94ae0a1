"""What one client of a host may do, as ``authorized_clients`` says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rtunnel.errors import Code

#: What files and status call the service without a name.
DEFAULT = "(default)"


def show_time(time: datetime) -> str:
    """Return a time as lines show it."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


@dataclass(frozen=True, slots=True)
class ServiceRights:
    """What a client may do with one service. None means: no bound of its own.

    :ivar streams: connections, or flows of UDP, at once.
    :ivar rate: bytes a second of all of them together, in each direction.
    :ivar until: when the right ends.
    """

    streams: int | None = None
    rate: int | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class ClientRights:
    """What a client may do. None means: no bound.

    :ivar services: the services that it may use; the service without a name is ``""``.
    :ivar streams: connections, and flows of UDP, at once.
    :ivar rate: bytes a second of all of them together, in each direction.
    :ivar until: when the rights end.
    :ivar of_service: what holds for single services besides.
    """

    services: frozenset[str] | None = None
    streams: int | None = None
    rate: int | None = None
    until: datetime | None = None
    of_service: Mapping[str, ServiceRights] = field(default_factory=dict)

    def why_not(self, service: str, streams: int, of_service: int, now: datetime | None = None) -> tuple[Code, str]:
        """Return why the client may not open one more stream; the text is empty if it may.

        :param streams: how many it has, of all services.
        :param of_service: how many of them lead to *service*.
        """
        name, now = service or DEFAULT, now or datetime.now(UTC)
        if self.services is not None and service not in self.services:
            return Code.UNAUTHORIZED, f"this client may not use the service {name}"
        own = self.of_service.get(service, _EVERYTHING)
        for until, what in ((self.until, "this client"), (own.until, f"this client with the service {name}")):
            if until is not None and now >= until:
                return Code.UNAUTHORIZED, f"the rights of {what} ended at {show_time(until)}"
        if self.streams is not None and streams >= self.streams:
            return Code.LIMIT, f"this client may have {self.streams} connections at once"
        if own.streams is not None and of_service >= own.streams:
            return Code.LIMIT, f"this client may have {own.streams} connections at once to the service {name}"
        return Code.UNAUTHORIZED, ""

    def may_keep(self, service: str, now: datetime | None = None) -> bool:
        """Return whether streams to *service* that are open may stay."""
        now = now or datetime.now(UTC)
        ends = (self.until, self.of_service.get(service, _EVERYTHING).until)
        return (self.services is None or service in self.services) and not any(
            until is not None and now >= until for until in ends
        )


_EVERYTHING = ServiceRights()
EVERYTHING = ClientRights()
