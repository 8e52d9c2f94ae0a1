"""A link that asks for nothing: it says HELLO, hears who is there and whether it is let in, and leaves."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from rtunnel.doctor.steps import Trouble
from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.reverse.secured import export_for_records
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.tls.identity import Peer
from rtunnel.tls.messages import limit_messages
from rtunnel.upkeep import AGENT
from rtunnel.wire import events
from rtunnel.wire.client_link import WITHDRAW, ClientLink
from rtunnel.wire.data.hedges import cut
from rtunnel.wire.data.keys import ClientAgreement, Root, read_plain_keys, wish
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.messages import CHECK, DIRECT, HOSTS, RULES, UDP, UDP_PATH, Hello, clean_text
from rtunnel.wire.opening import read_opening
from rtunnel.wire.tunnel_request import TunnelRequest

#: Bytes that a server may send to somebody who has asked for nothing.
MOST_BYTES = 256 * 1024
#: Bytes more for each tunnel about which it was asked.
MOST_ANSWER = 1024
_TURN = 65536


class Refusal(Trouble):
    """The server has ended the link, and has said why.

    :ivar code: a :class:`~rtunnel.errors.Code`, or another one that the server sent.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Greeting(Protocol):
    """One link.

    :param token: what the client of this configuration shows; None: none.
    :param hedges: those of this configuration.
    :ivar identity: the server as authenticated by TLS; None without TLS. Set before there is a connection.
    :ivar established: fires with the server's HELLO, or with None if it is a reference server.
    :ivar let_in: fires when the server has taken us in.
    :ivar is_over: whether the server has ended the link.
    :ivar asked: when HELLO was sent, by the clock of this machine, in seconds since 1970.
    :ivar answered: when the server's HELLO came.
    :ivar path: fires with the keys of the UDP path, its id and its port, as in PATH.
    """

    identity: Peer | None = None
    transport: Any

    def __init__(self, clock: Any, token: str | None, limits: LinkLimits, hedges: Hedges) -> None:
        hello = Hello(
            # A new name, so that the server takes us for nobody it knows.
            session=secrets.token_hex(16),
            initial_credit=limits.initial_credit,
            agent=f"{AGENT} (doctor)",
            capabilities=frozenset({CHECK, DIRECT, HOSTS, RULES, UDP, UDP_PATH, WITHDRAW}),
            token=token,
            hedge=hedges.names,
        )
        self._hedges = hedges
        self._pieces = hedges.server_pieces()
        self.link = ClientLink(hello, limits, clock.seconds())
        self.established: Deferred[Hello | None] = Deferred()
        self.let_in: Deferred[None] = Deferred()
        self.path: Deferred[tuple[Root, int, int]] = Deferred()
        self.asked = self.answered = 0.0
        self._answers: dict[int, Deferred[None]] = {}
        self._most = MOST_BYTES
        self._clock = clock
        self._limits = limits
        self._agreement: ClientAgreement | None = None
        self._root: Root | None = None
        self.is_over = False
        self._held = b""
        self._is_link = False
        self._count = 0

    def connectionMade(self) -> None:
        """Say HELLO."""
        limit_messages(self.transport)
        if self._hedges:
            self._hedges.agree().addCallback(self._use_agreement)
        elif self.identity is not None:
            self._agreement = ClientAgreement(wish())
            self.link.send_keys(self._agreement.message)
        self.asked = time.time()
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Hear what the server says. Who says too much is cut off."""
        self._count += len(data)
        if self._count > self._most:
            self._give_up(Trouble(f"it sends more than {self._most // 1024} KiB to somebody who asked for nothing"))
            return
        if not self._is_link:
            self._held += data
            opening = read_opening(self._held, self._limits.max_frame, data_connections=False)
            if opening is None:
                return
            if opening.problem:
                self._give_up(Trouble(opening.problem))
                return
            self._is_link, data, self._held = True, self._held, b""
        self.link.receive_data(data, self._clock.seconds())
        self._look()
        self._flush()

    def _look(self) -> None:
        for event in self.link.take_events():
            if isinstance(event, events.Established):
                self.answered = time.time()
                self._send_hedged_keys()
                if not self.established.called:
                    self.established.callback(event.peer)
                if event.peer is not None:
                    self.link.ping(self._clock.seconds())
            elif isinstance(event, events.LinkFailed):
                self._give_up(Refusal(event.code, clean_text(f"{event.code}: {event.message}")))
            elif isinstance(event, events.KeysReceived):
                self._keys_received(event.payload)
            elif isinstance(event, events.PathOffered) and self._root is not None and not self.path.called:
                self.path.callback((self._root, event.id, event.port))
            elif isinstance(event, events.TunnelReady):
                self._answer(event.number, None)
            elif isinstance(event, events.TunnelRefused):
                self._answer(event.number, Refusal(event.code, clean_text(f"{event.code}: {event.message}")))
            elif isinstance(event, events.StreamOpened):
                # A reference server may send us a visitor of its shared port.
                self.link.reset(event.stream, Code.UNKNOWN_TUNNEL, "only the doctor is here")
        if self.link.liveness.answered and not self.let_in.called:
            self.let_in.callback(None)

    def ask(self, number: int, request: TunnelRequest) -> Deferred[None]:
        """Ask whether the server would publish a tunnel. What is returned fails with a :class:`Refusal` if not.

        :param number: one that was not asked about before.
        """
        waiting = self._answers[number] = Deferred()
        self._most += MOST_ANSWER
        self.link.request_tunnel(number, replace(request, only_check=True))
        self._look()
        self._flush()
        return waiting

    def _answer(self, number: int, refusal: Refusal | None) -> None:
        waiting = self._answers.pop(number, None)
        if waiting is not None and not waiting.called:
            waiting.callback(None) if refusal is None else waiting.errback(refusal)

    def _use_agreement(self, agreement: ClientAgreement) -> None:
        self._agreement = agreement
        self._send_hedged_keys()
        self._flush()

    def _send_hedged_keys(self) -> None:
        if self._hedges and self._agreement is not None and self.link.is_extended:
            for piece in cut(self._agreement.message):
                self.link.send_keys(piece)

    def _keys_received(self, payload: bytes) -> None:
        try:
            if self._hedges:
                whole = self._pieces.take(payload) if payload else None
                if whole is None:
                    return
                payload = whole
            agreement, self._agreement = self._agreement, None
            if self.identity is None:
                self._root = read_plain_keys(payload)
            elif agreement is not None:
                self._root = agreement.finish(payload, export_for_records(self.transport, self.identity))
        except ValueError as error:
            self._give_up(Trouble(f"it breaks the protocol: {error}"))

    def _flush(self) -> None:
        if self.transport is not None and not self.is_over and self.link.has_data_to_send:
            self.transport.writeSequence(self.link.data_to_send(_TURN, self._clock.seconds()))

    def leave(self) -> None:
        """Say goodbye, and close the connection. May be called again."""
        for waiting in self._waiting:
            waiting.addErrback(lambda _: None)
        self.link.close(Code.SHUTTING_DOWN, "the doctor leaves")
        self._flush()
        self.transport.loseConnection()

    @property
    def _waiting(self) -> list[Deferred[Any]]:
        return [self.established, self.let_in, self.path, *self._answers.values()]

    def _give_up(self, why: Trouble) -> None:
        self.is_over = True
        for waiting in self._waiting:
            if not waiting.called:
                waiting.errback(why)
        self.transport.abortConnection()

    @property
    def heard(self) -> int:
        """How many bytes have come."""
        return self._count

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Take note that the server has ended the connection, or that we have."""
        self.is_over = True
        for waiting in self._waiting:
            if not waiting.called:
                waiting.errback(Trouble(reason_of(reason)))
