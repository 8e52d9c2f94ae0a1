"""The client's end of a link: it asks for tunnels and accepts streams."""

from __future__ import annotations

from collections.abc import Iterable

from rtunnel.errors import Code
from rtunnel.wire import frames, messages
from rtunnel.wire.events import PathOffered, StreamOpened, TicketsReceived, TunnelNotice, TunnelReady, TunnelRefused
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link import Link, Mode
from rtunnel.wire.messages import Hello, WireError
from rtunnel.wire.tunnel_request import TunnelRequest, encode_init

#: Capability: an ERROR with scope tunnel from the client gives up that tunnel.
WITHDRAW = "withdraw"

_REFERENCE = "the server speaks the reference protocol, which carries one TCP tunnel per link"


class ClientLink(Link):
    """The client's end; see :class:`~rtunnel.wire.link.Link`. It sends HELLO first.

    :ivar tunnels: the tunnels requested and not refused, by number.
    :ivar withdrawn: those that were given up, but whose visitors are still taken, as the server may not know yet.
    """

    def __init__(self, hello: Hello, limits: LinkLimits, now: float) -> None:
        super().__init__(hello, limits, now)
        self.tunnels: dict[int, TunnelRequest] = {}
        self.withdrawn: set[int] = set()
        self._unsent: dict[int, TunnelRequest] = {}
        self._handlers[frames.NEW_CONN] = self._receive_new_conn
        self._outbox.add_control(frames.HELLO, 0, messages.encode_hello(hello))

    def request_tunnel(self, number: int, request: TunnelRequest) -> None:
        """Ask for tunnel *number*. The answer is an event. The number is free then if *request* only asked.

        Until the mode of the link is settled, only tunnel 0 is requested: a reference server that could not bind the
        first port would accept the second request, and expose the wrong service. A reference client that wants the
        shared port sends no INIT (docs/wire.rst, "Reference protocol").
        """
        self.tunnels[number] = request
        self.withdrawn.discard(number)
        is_plain = request.port and request.protocol == "tcp" and not request.rules and not request.only_check
        is_first = self.mode is Mode.AWAITING and number == 0 and is_plain
        if self.mode is Mode.EXTENDED and request.protocol == "udp" and messages.UDP not in self.capabilities:
            self._give_up(number, "the server carries no UDP")
        elif self.mode is Mode.EXTENDED and request.host and messages.HOSTS not in self.capabilities:
            self._give_up(number, "the server knows no tunnels for host names")
        elif self.mode is Mode.EXTENDED and request.needs_rules and messages.RULES not in self.capabilities:
            self._give_up(number, "the server knows no rules for this kind of tunnel")
        elif self.mode is Mode.EXTENDED and request.only_check and messages.CHECK not in self.capabilities:
            self._give_up(number, "the server does not tell before it is published")
        elif self.mode is Mode.EXTENDED or is_first:
            self._send(frames.INIT, number, encode_init(request))
        elif self.mode is Mode.AWAITING:
            self._unsent[number] = request
        elif self.mode is Mode.REFERENCE:
            self._give_up(number, _REFERENCE)

    def withdraw_tunnel(self, number: int, code: str = Code.SHUTTING_DOWN) -> bool:
        """Give up tunnel *number*. Its streams continue. Return False if the server lacks the capability.

        The server may have sent visitors before it reads this. They are taken until :meth:`refuse_withdrawn`.
        """
        if self.mode is not Mode.EXTENDED or WITHDRAW not in self.capabilities:
            return False
        if self.tunnels.pop(number, None) is not None:
            self.withdrawn.add(number)
            self._send_error(messages.SCOPE_TUNNEL, number, code, "the client gives this tunnel up")
        return True

    def takes(self, number: int) -> bool:
        """Return whether visitors of tunnel *number* are taken."""
        return number in self.tunnels or number in self.withdrawn

    def refuse_withdrawn(self, numbers: Iterable[int]) -> None:
        """Take no more visitors of these tunnels, which were given up."""
        self.withdrawn.difference_update(numbers)

    def say_state(self, number: int, *, is_ready: bool, why: str = "") -> None:
        """Tell the server whether the service of tunnel *number* answers, if it wants to know.

        :param why: why it does not.
        """
        if messages.RULES in self.capabilities and number in self.tunnels:
            self._send(frames.STATE, number, messages.encode_state(is_ready=is_ready, why=why))

    def _settle(self, peer: Hello | None) -> None:
        super()._settle(peer)
        unsent, self._unsent = self._unsent, {}
        if peer is not None:
            self._handlers[frames.READY] = self._receive_ready
            if self.has_keys:
                self._handlers[frames.KEYS] = self._receive_keys
            if messages.DIRECT in self.capabilities:
                self._handlers[frames.TICKETS] = self._receive_tickets
            if messages.UDP in self.capabilities:
                self._handlers[frames.PATH] = self._receive_path
            if messages.RULES in self.capabilities:
                self._handlers[frames.NOTICE] = self._receive_notice
            for number, request in unsent.items():
                self.request_tunnel(number, request)
        else:
            for number, request in unsent.items():
                if request.rules:
                    self._give_up(number, "the server speaks the reference protocol, which has no rules")
                elif number or request.protocol != "tcp":
                    self._give_up(number, _REFERENCE)

    def _give_up(self, number: int, why: str) -> None:
        del self.tunnels[number]
        self._events.append(TunnelRefused(number, Code.NOT_SUPPORTED, why))

    def _receive_new_conn(self, conn_id: int, payload: bytes) -> None:
        if self.hello.hedge:
            self.fail(Code.PROTOCOL, "NEW_CONN where no visitor may go by the link (--hedge)")
            return
        if conn_id == 0 or conn_id in self.streams:
            self._ignore("NEW_CONN for a stream that is open")
            return
        tunnel, visitor = 0, ""
        if self.peer is not None:
            try:
                tunnel, visitor = messages.decode_visitor(payload)
            except ValueError as error:
                self._send_reset(conn_id, Code.PROTOCOL, str(error))
                return
        if not self.takes(tunnel):
            self._send_reset(conn_id, Code.UNKNOWN_TUNNEL, f"there is no tunnel {tunnel}")
        elif (why := self._why_full()) is not None:
            self._send_reset(conn_id, Code.LIMIT, why)
        else:
            self._events.append(StreamOpened(self._open(conn_id), tunnel, visitor))

    def _receive_ready(self, number: int, payload: bytes) -> None:
        request = self.tunnels.get(number)
        if request is not None and request.only_check:
            del self.tunnels[number]
            self._events.append(TunnelReady(number, ""))
            return
        try:
            address = messages.decode_ready(payload)
        except ValueError as error:
            self._ignore(f"malformed READY ({error})")
            return
        if request is not None:
            self._events.append(TunnelReady(number, address))
        else:
            self._ignore("READY for a tunnel that was not asked for", is_normal=True)

    def _receive_tickets(self, _conn_id: int, payload: bytes) -> None:
        try:
            first, count, expires = messages.decode_tickets(payload)
        except ValueError as error:
            # Without knowing how many there are, this end can derive no later ones.
            self.fail(Code.PROTOCOL, f"malformed TICKETS ({error})")
            return
        self._events.append(TicketsReceived(first, count, expires))

    def _receive_path(self, _conn_id: int, payload: bytes) -> None:
        try:
            id, port = messages.decode_path(payload)
        except ValueError as error:
            self._ignore(f"malformed PATH ({error})")
            return
        self._events.append(PathOffered(id, port))

    def _receive_notice(self, number: int, payload: bytes) -> None:
        try:
            message = messages.decode_notice(payload)
        except ValueError as error:
            self._ignore(f"malformed NOTICE ({error})")
            return
        if number in self.tunnels:
            self._events.append(TunnelNotice(number, message))
        else:
            self._ignore("NOTICE for a tunnel that was not asked for", is_normal=True)

    def _receive_tunnel_error(self, number: int, error: WireError) -> None:
        if self.tunnels.pop(number, None) is None:
            self._ignore("ERROR for a tunnel that was not asked for", is_normal=True)
        else:
            self._events.append(TunnelRefused(number, error.code, error.message))
