"""The server's end of a link: it accepts tunnels and opens streams for visitors."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from rtunnel.errors import Code, Refused
from rtunnel.wire import frames, messages
from rtunnel.wire.events import TunnelRefused, TunnelRequested, TunnelState, TunnelWithdrawn
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link import Link, Mode
from rtunnel.wire.messages import Hello, WireError
from rtunnel.wire.stream import Stream
from rtunnel.wire.tunnel_request import TunnelRequest, decode_init

#: Bytes of an answer to INIT that may wait while the client does not read, for each tunnel that it may have: no honest
#: client asks for a tunnel again before it has the answer.
MAX_ANSWER = 256


class StreamIds:
    """The conn_ids of all links of one server (docs/wire.rst, "conn_ids").

    They come from one counter with a random start. A reference client that reconnects goes on sending the bytes of old
    streams under their old conn_ids. If each link began at 1, one visitor would receive the bytes of another.

    :param start: the first conn_id; None: a random one.
    """

    def __init__(self, start: int | None = None) -> None:
        self._next = start if start is not None else secrets.randbelow(2**31) + 1
        self._live: set[int] = set()

    def allocate(self) -> int:
        """Return a conn_id, 1 to 2**32 - 1, that no open stream of any link has."""
        while True:
            conn_id = self._next
            self._next = conn_id + 1 if conn_id < 2**32 - 1 else 1
            if conn_id not in self._live:
                self._live.add(conn_id)
                return conn_id

    def release(self, conn_id: int) -> None:
        """Note that the stream with this conn_id is over."""
        self._live.discard(conn_id)


class ServerLink(Link):
    """The server's end; see :class:`~rtunnel.wire.link.Link`.

    :param ids: gives each stream its conn_id; all links of a server share it.
    :param wall_clock: tells the seconds since 1970, for HELLO; None: HELLO has no time.
    :ivar tunnels: the tunnels that the client has asked for and that were not refused, by number.
    """

    def __init__(
        self,
        hello: Hello,
        limits: LinkLimits,
        now: float,
        ids: StreamIds,
        wall_clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(hello, limits, now)
        self.tunnels: dict[int, TunnelRequest] = {}
        self._ids = ids
        self._wall_clock = wall_clock
        self._most_answers = MAX_ANSWER * limits.max_tunnels
        self._handlers[frames.INIT] = self._receive_init

    def _settle(self, peer: Hello | None) -> None:
        if peer is not None:
            time = round(self._wall_clock(), 3) if self._wall_clock is not None else None
            self._outbox.add_control(frames.HELLO, 0, messages.encode_hello(replace(self.hello, time=time)))
        super()._settle(peer)
        if self.has_keys:
            self._handlers[frames.KEYS] = self._receive_keys
        if messages.RULES in self.capabilities:
            self._handlers[frames.STATE] = self._receive_state

    def bear(self, limits: LinkLimits) -> None:
        """Let the other end, which turns out to be no client, have so many tunnels and streams from now on."""
        self.limits = limits
        self._most_answers = MAX_ANSWER * limits.max_tunnels

    def send_tickets(self, first: int, count: int, expires: float) -> None:
        """Ask the client for *count* data connections.

        :param first: the index of the first ticket.
        :param expires: for how many seconds the tickets are good.
        """
        for start in range(0, count, messages.MAX_TICKETS):
            part = min(count - start, messages.MAX_TICKETS)
            self._send(frames.TICKETS, 0, messages.encode_tickets(first + start, part, expires))

    def send_path(self, id: int, port: int) -> None:
        """Tell the client where packets of the link's UDP path go.

        The parameters are those of :func:`~rtunnel.wire.messages.encode_path`.
        """
        self._send(frames.PATH, 0, messages.encode_path(id, port))

    def send_notice(self, number: int, message: str) -> None:
        """Tell the operator of the client something about tunnel *number*, if the client can pass it on."""
        if messages.RULES in self.capabilities and number in self.tunnels:
            self._send(frames.NOTICE, number, messages.encode_notice(message), is_answer=True)

    def open_stream(self, tunnel: int, visitor: str) -> Stream:
        """Open a stream for a visitor. A link that has received nothing yet becomes a reference link.

        :param tunnel: the number of the tunnel.
        :param visitor: the visitor's address, ``host:port``.
        :raises rtunnel.errors.Refused: the link cannot take another stream.
        """
        if self.mode is Mode.AWAITING:
            self._settle(None)
        why = self._why_no_stream()
        if why is not None:
            raise Refused(Code.LIMIT, why)
        stream = self._open(self._ids.allocate())
        payload = messages.encode_visitor(tunnel, visitor) if self.peer is not None else b""
        self._send(frames.NEW_CONN, stream.conn_id, payload)
        return stream

    def _why_no_stream(self) -> str | None:
        if self.mode is Mode.CLOSED:
            return "the link is closed"
        if self.hello.hedge:
            return "no visitor may go by the link (--hedge)"
        if 2 * self._outbox.control_waiting > self._outbox.max_control:
            return "the client does not read"
        return self._why_full()

    @property
    def has_room(self) -> bool:
        """Whether :meth:`open_stream` would open one."""
        return self._why_no_stream() is None

    def _remove(self, stream: Stream, *, linger: bool = False) -> None:
        super()._remove(stream, linger=linger)
        self._ids.release(stream.conn_id)

    def accept_tunnel(self, number: int, address: str) -> None:
        """Tell the client that tunnel *number* is served at *address* (``host:port``); empty: that it would be."""
        if self.peer is not None:
            self._send(frames.READY, number, messages.encode_ready(address), is_answer=True)

    def refuse_tunnel(self, number: int, code: str, message: str) -> None:
        """Tell the client that tunnel *number* is not served, or no longer. Close a reference link.

        :param code: an :class:`rtunnel.errors.Code`.
        :param message: the reason, for the client's log.
        """
        self.tunnels.pop(number, None)
        if self.peer is not None:
            self._send_error(messages.SCOPE_TUNNEL, number, code, message)
        else:
            self.fail(code, message)

    def _receive_init(self, number: int, payload: bytes) -> None:
        # A reference link has one tunnel, because its NEW_CONN does not name one.
        if number in self.tunnels or (self.peer is None and self.tunnels):
            self._ignore("INIT for a tunnel that exists already")
            return
        try:
            request = decode_init(payload)
            if request.protocol == "udp" and messages.UDP not in self.capabilities:
                raise Refused(Code.NOT_SUPPORTED, "the link carries no UDP")
            if request.host and messages.HOSTS not in self.capabilities:
                raise Refused(Code.NOT_SUPPORTED, "the link has no tunnels for host names")
            if request.needs_rules and messages.RULES not in self.capabilities:
                raise Refused(Code.NOT_SUPPORTED, "the link has no rules for this kind of tunnel")
            if request.only_check and messages.CHECK not in self.capabilities:
                raise Refused(Code.NOT_SUPPORTED, "the link has no INIT that only asks")
            if len(self.tunnels) >= self.limits.max_tunnels:
                raise Refused(Code.LIMIT, f"the link has {len(self.tunnels)} tunnels, its limit")
        except ValueError as error:
            refusal = TunnelRefused(number, Code.BAD_REQUEST, str(error))
        except Refused as error:
            refusal = TunnelRefused(number, error.code, error.message)
        else:
            if not request.only_check:
                self.tunnels[number] = request
            self._events.append(TunnelRequested(number, request))
            return
        self._events.append(refusal)
        self.refuse_tunnel(number, refusal.code, refusal.message)

    def _receive_state(self, number: int, payload: bytes) -> None:
        try:
            is_ready, why = messages.decode_state(payload)
        except ValueError as error:
            self._ignore(f"malformed STATE ({error})")
            return
        if number in self.tunnels:
            self._events.append(TunnelState(number, is_ready, why))
        else:
            self._ignore("STATE of a tunnel that does not exist", is_normal=True)

    def _receive_tunnel_error(self, number: int, error: WireError) -> None:
        if self.tunnels.pop(number, None) is None:
            self._ignore("ERROR for a tunnel that does not exist", is_normal=True)
        else:
            self._events.append(TunnelWithdrawn(number, error.code))
