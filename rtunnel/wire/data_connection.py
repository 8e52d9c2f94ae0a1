"""Data connections: tickets, and both ends of a connection from ATTACH until it is a stream.

The rules are in docs/wire.rst, "Data connections".

    server:  available --- open() ---> used
              |     ^
      PING goes     PONG comes
            out     |
              v     |
             asking

    client:  attaching --- PING ---> attached --- NEW_CONN ---> used
                 |                                               ^
                 +-----------------------------------------------+

Only the server sends PING, and it never uses a connection on which a PONG is due. So nothing from the client is in
flight when NEW_CONN goes out, and everything after NEW_CONN, in both directions, is the stream's bytes, without frames.

The I/O hands in bytes and the time, sends what ``data_to_send`` returns after each call, and calls ``tick`` every
``tick_every`` seconds. When ``error`` is not empty, or ``is_dead``, it closes the connection. Nothing that a peer sends
makes a method raise.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from rtunnel.wire import frames, messages
from rtunnel.wire.frames import HEADER, HEADER_SIZE
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.liveness import MAX_PING, Liveness

OwnerT = TypeVar("OwnerT", bound=Hashable)

#: Seconds for which a ticket is good.
TICKET_LIFETIME = 30.0
#: How many tickets of one owner may be out at once ...
MAX_TICKETS_PER_OWNER = 256
#: ... and of all owners together.
MAX_TICKETS = 65536
#: The longest payload of NEW_CONN that a client takes on a data connection, in bytes.
MAX_NEW_CONN = 4096
#: The server sends PINGs no more often than this, in seconds, whatever the client wants.
MIN_PING_EVERY = 1.0

_PING = frames.encode_frame(frames.PING, 0)
_PONG = frames.encode_frame(frames.PONG, 0)
_MAX_PAYLOAD = {frames.PING: MAX_PING, frames.NEW_CONN: MAX_NEW_CONN}


class Tickets(Generic[OwnerT]):
    """The outstanding tickets of one server. A ticket tells which link a data connection belongs to.

    A ticket is 128 random bits. It is good once, for :attr:`lifetime`, and for the owner (the link) to which it was
    issued. A client that uses a ticket must still present the certificate of that link; the caller of :meth:`take`
    checks that. Times are seconds on any clock that does not run backwards.

    :param lifetime: seconds for which a ticket is good.
    :param max_per_owner: how many tickets of one owner may be out at once.
    :param max_tickets: how many tickets of all owners may be out at once.
    """

    def __init__(
        self,
        lifetime: float = TICKET_LIFETIME,
        max_per_owner: int = MAX_TICKETS_PER_OWNER,
        max_tickets: int = MAX_TICKETS,
    ) -> None:
        self.lifetime = lifetime
        self._max_per_owner = max_per_owner
        self._max_tickets = max_tickets
        # All tickets have the same lifetime, so the first one is the oldest and expires next.
        self._issued: dict[str, tuple[OwnerT, float]] = {}
        self._by_owner: dict[OwnerT, set[str]] = {}

    def __len__(self) -> int:
        return len(self._issued)

    def outstanding(self, owner: OwnerT, now: float) -> int:
        """Return how many valid tickets of *owner* are out."""
        self._expire(now)
        return len(self._by_owner.get(owner, ()))

    def issue(self, owner: OwnerT, count: int, now: float) -> list[str]:
        """Return *count* new tickets for *owner*, or as many as the bounds allow."""
        self._expire(now)
        held = self._by_owner.get(owner, ())
        count = min(count, self._max_per_owner - len(held), self._max_tickets - len(self._issued))
        if count <= 0:
            return []
        tickets = []
        entry = (owner, now + self.lifetime)
        for _ in range(count):
            ticket = secrets.token_hex(16)
            tickets.append(ticket)
            self._issued[ticket] = entry
        self._by_owner.setdefault(owner, set()).update(tickets)
        return tickets

    def take(self, ticket: str, now: float) -> OwnerT | None:
        """Use up *ticket*. Return its owner, or None if the ticket is not valid."""
        self._expire(now)
        entry = self._issued.pop(ticket, None)
        if entry is None:
            return None
        owner = entry[0]
        self._forget(owner, ticket)
        return owner

    def revoke(self, owner: OwnerT) -> None:
        """Invalidate all tickets of *owner*."""
        for ticket in self._by_owner.pop(owner, ()):
            del self._issued[ticket]

    def _expire(self, now: float) -> None:
        expired = []
        for ticket, (owner, until) in self._issued.items():
            if until > now:
                break
            expired.append((ticket, owner))
        for ticket, owner in expired:
            del self._issued[ticket]
            self._forget(owner, ticket)

    def _forget(self, owner: OwnerT, ticket: str) -> None:
        held = self._by_owner[owner]
        held.discard(ticket)
        if not held:
            del self._by_owner[owner]


class ServerDataConnection:
    """The server's end, once the ticket in ATTACH has been accepted. Its first tick sends a PING.

    :param limits: the bounds of this end; only ``keepalive_interval`` and ``dead_after`` count.
    :param now: the time, in seconds on any clock that does not run backwards.
    :param ping_every: seconds of silence after which the client wants a PING; None if it leaves that to the server.
    :ivar error: how the client broke the protocol, or empty.
    :ivar is_used: NEW_CONN was returned. Bytes that arrive from now on belong to the stream; do not pass them in here.
    :ivar tick_every: seconds between two calls of :meth:`tick`.
    """

    __slots__ = ("_due", "_held", "_liveness", "_out", "_ping_at", "_ping_every", "error", "is_used", "tick_every")

    def __init__(self, limits: LinkLimits, now: float, ping_every: float | None = None) -> None:
        self.error = ""
        self.is_used = False
        interval = limits.keepalive_interval
        self._ping_every = interval if ping_every is None else min(interval, max(ping_every, MIN_PING_EVERY))
        self.tick_every = min(1.0, self._ping_every / 2)
        self._liveness = Liveness(limits, now)
        # The first PING tells the client that its ticket was accepted.
        self._ping_at = now
        # The PONG that is due, and the part of it that has come.
        self._due = self._held = self._out = b""

    @property
    def is_available(self) -> bool:
        """Whether a visitor can use this connection: the client has answered, and nothing from it is in flight."""
        return not (self._due or self.is_used or self.error)

    @property
    def is_dead(self) -> bool:
        """Whether the client failed to answer a PING in time."""
        return bool(self._due) and self._liveness.is_dead

    def data_to_send(self) -> bytes:
        """Return the bytes to send now; they may be empty."""
        out, self._out = self._out, b""
        return out

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the connection, cut anywhere.

        :param now: the time, in seconds.
        """
        if self.error or not data:
            return
        held = self._held + data
        if not self._due.startswith(held):
            self.error = "bytes that answer no PING"
            self._held = b""
        elif len(held) < len(self._due):
            self._held = held
        else:
            self._due = self._held = b""
            self._liveness.last_heard = now
            self._ping_at = now + self._ping_every

    def tick(self, now: float, *, may_ping: bool = True) -> None:
        """Send a PING if one is due, and notice a missing PONG.

        :param now: the time, in seconds.
        :param may_ping: a PING that is due may go out now; otherwise it waits for a later tick.
        """
        if self.is_used or self.error:
            return
        self._liveness.tick(now)
        # After this process was stopped a PING may go out too early, which does no harm.
        if may_ping and not self._due and now >= self._ping_at:
            self._due, self._out = _PONG, _PING

    def open(self, conn_id: int, tunnel: int, visitor: str) -> bytes:
        """Use this connection for a visitor. Return what to send before the stream's first byte.

        :param conn_id: the stream's number, from 1; for logs.
        :param tunnel: the number of the tunnel.
        :param visitor: the visitor's address, ``host:port``.
        :raises RuntimeError: the connection is not available.
        """
        if not self.is_available:
            raise RuntimeError("this data connection is not available")
        self.is_used = True
        return frames.encode_frame(frames.NEW_CONN, conn_id, messages.encode_visitor(tunnel, visitor))


@dataclass(frozen=True, slots=True)
class Used:
    """The data connection is a stream from now on.

    :ivar conn_id: the stream's number; for logs.
    :ivar tunnel: the number of the tunnel, which the client may not have.
    :ivar visitor: the visitor's address, ``host:port``; empty if unknown.
    :ivar rest: bytes of the stream that came in the same read.
    """

    conn_id: int
    tunnel: int
    visitor: str
    rest: bytes


class ClientDataConnection:
    """The client's end. It sends ATTACH first.

    :param ticket: a ticket from TICKETS that has not been used.
    :param limits: the bounds of this end; only ``keepalive_interval``, which the server is told, and ``dead_after``
        count.
    :param now: the time, in seconds on any clock that does not run backwards.
    :ivar error: how the server broke the protocol, or empty.
    :ivar is_attached: the server has accepted the ticket.
    :ivar is_used: :class:`Used` was returned. Bytes that arrive from now on belong to the stream; do not pass them in
        here.
    """

    __slots__ = ("_attach", "_held", "_liveness", "_pong", "error", "is_attached", "is_used")

    def __init__(self, ticket: str, limits: LinkLimits, now: float) -> None:
        self.error = ""
        self.is_attached = False
        self.is_used = False
        self._liveness = Liveness(limits, now)
        self._attach = frames.encode_frame(frames.ATTACH, 0, messages.encode_attach(ticket, limits.keepalive_interval))
        self._pong = b""
        self._held = b""

    @property
    def tick_every(self) -> float:
        """Seconds between two calls of :meth:`tick`."""
        return self._liveness.tick_every

    @property
    def is_dead(self) -> bool:
        """Whether the server has been silent for too long."""
        return self._liveness.is_dead and not self.is_used

    def data_to_send(self) -> bytes:
        """Return the bytes to send now; they may be empty."""
        out = self._attach + self._pong
        self._attach = self._pong = b""
        return out

    def tick(self, now: float) -> None:
        """Measure the server's silence.

        :param now: the time, in seconds.
        """
        self._liveness.tick(now)

    def receive_data(self, data: bytes, now: float) -> Used | None:
        """Take bytes from the connection, cut anywhere. Return :class:`Used` when NEW_CONN has come.

        :param now: the time, in seconds.
        """
        if self.is_used or self.error:
            return None
        self._liveness.last_heard = now
        try:
            return self._read(self._held + data)
        except ValueError as error:
            self.error = str(error)
            self._held = self._pong = b""
            return None

    def _read(self, data: bytes) -> Used | None:
        start = 0
        while len(data) - start >= HEADER_SIZE:
            frame_type, conn_id, length = HEADER.unpack_from(data, start)
            if (most := _MAX_PAYLOAD.get(frame_type)) is None:
                raise ValueError(f"{frames.frame_name(frame_type)} on a data connection")
            if length > most:
                raise ValueError(f"{frames.frame_name(frame_type)} of {length} bytes; the limit is {most}")
            end = start + HEADER_SIZE + length
            if end > len(data):
                break
            payload = data[start + HEADER_SIZE : end]
            if frame_type == frames.NEW_CONN:
                return self._use(conn_id, payload, data[end:])
            self.is_attached = True
            # A server waits for PONG before it sends the next PING; one that does not wait gets the last PONG only.
            self._pong = frames.encode_frame(frames.PONG, 0, payload)
            start = end
        self._held = data[start:]
        return None

    def _use(self, conn_id: int, payload: bytes, rest: bytes) -> Used:
        if self._pong:
            raise ValueError("NEW_CONN before the answer to a PING")
        if conn_id == 0:
            raise ValueError("NEW_CONN without a number")
        try:
            tunnel, visitor = messages.decode_visitor(payload)
        except ValueError as error:
            raise ValueError(f"malformed NEW_CONN ({error})") from None
        self.is_attached = self.is_used = True
        self._held = b""
        return Used(conn_id, tunnel, visitor, rest)
