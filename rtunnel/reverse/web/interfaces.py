"""What a visitor's HTTP connection needs of others, and they of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from rtunnel.reverse.web.answers import Answer
from rtunnel.reverse.web.gate import Gate
from rtunnel.reverse.web.upstream import Upstream
from rtunnel.wire.web.heads import RequestHead

#: Seconds that busy connections have to come to the end of an answer when the process stops, and new ones to ask for
#: something: whoever has just connected is about to.
SETTLE = 1.0


class IConnection(Protocol):
    """A visitor's connection; see :class:`~rtunnel.reverse.web.connection.HttpConnection`.

    :ivar visitor: who it is.
    """

    visitor: Any

    @property
    def house(self) -> IHttpHouse: ...
    @property
    def front_is_full(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    def touch(self) -> None: ...
    def is_raw(self) -> None: ...
    def finish(self) -> None: ...
    def upstream_is_full(self, is_full: bool) -> None: ...
    def exchange_over(self, exchange: Any, *, keeps_alive: bool) -> None: ...
    def broken(self, why: str) -> None: ...


class IUpstreams(Protocol):
    """The streams to a service; see :class:`~rtunnel.reverse.web.upstreams.Upstreams`."""

    def __len__(self) -> int: ...
    def find(self, visitor: Any, *, prefix: str, may_repeat: bool, refused: Sequence[Upstream]) -> Upstream | None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes.

    :ivar upstreams: the streams to its service.
    :ivar gate: who may send it a request.
    :ivar what: the service's name on pages.
    :ivar changes_of_request: fields that the request gets in place of its own; see
        :func:`~rtunnel.wire.web.heads.changed`.
    """

    upstreams: IUpstreams
    gate: Gate
    what: str
    changes_of_request: Sequence[tuple[bytes, bytes | None]] = ()
    changes_of_response: Sequence[tuple[bytes, bytes | None]] = ()


class IHttpHouse(Protocol):
    """What is behind the connections.

    :ivar head_timeout: seconds in which the head of a request must have come.
    :ivar is_stopping: no connection is kept for another request.
    """

    head_timeout: float
    is_stopping: bool

    def seconds(self) -> float: ...
    def route(self, head: RequestHead, connection: IConnection) -> Target | Answer | Deferred[Target | Answer]:
        """Decide where a request goes."""

    def done(self, target: Target, head: RequestHead, connection: IConnection) -> None:
        """Take note that a request that was let in to *target* is over."""

    def request_over(self, exchange: Any, connection: IConnection) -> None:
        """Take note that a request is over that was sent on; see :class:`~rtunnel.reverse.web.exchange.Exchange`."""

    def answered(self, head: RequestHead, connection: IConnection, status: int, size: int) -> None:
        """Take note that a request was answered in the place of a service.

        :param size: bytes of the answer.
        """

    def until_back(self, target: Target, connection: IConnection, member: Any) -> Deferred[bool] | None:
        """Wait for a client whose link was lost under a request.

        :param member: the tunnel that had the request; see :class:`~rtunnel.reverse.web.upstream.Upstream`.
        :returns: fires with True when the client is back, or with False; None: nobody is waited for.
        """

    def refused(self, connection: IConnection, why: str) -> None:
        """Take note that a visitor has sent what cannot be understood."""

    def whose(self, head: RequestHead, connection: IConnection) -> tuple[str, str]:
        """Return the address of whose request it is, and the key under which that is counted."""

    def forwarded(self, head: RequestHead, connection: IConnection) -> bytes:
        """Return the lines that tell the service whose request it is."""

    def gone(self, connection: IConnection) -> None:
        """Forget the connection."""
