"""Who is registered at the signaling server, and whose message goes to whom.

Texts come in, texts go out through the :class:`Line` of each party: no socket, no clock. A :class:`Party` is
``new`` until its first message names it, ``waiting`` while the holder of its ID is asked whether it still lives,
``registered``, and ``gone``.

Hosts and clients share one name space of IDs, and messages go both ways between any two of them.

- The first message registers the party under its ``sender_id``: a host by ``register-host``; a client by that too, with
  the payload ``"client"`` if it is ours, or by its first offer. From then on ``sender_id`` may be left out; another
  than the registered one ends the connection.
- What cannot be routed is answered by an ``error`` whose ``sender_id`` is the ID that it is about: that of the target,
  or the party's own if it cannot be registered. An ``error`` about nobody is about the message itself.
- A message that cannot be understood (no JSON, no type or an unknown one, no target, an ``error``, a second
  ``register-host``) is answered by an ``error`` too, and the connection stays; :data:`MAX_MISTAKES` of them end it.
- When one end of an offer that has no answer yet goes, the other is told by an ``error`` about it.

No message is kept, but those of a party that waits for its ID.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from twisted.logger import Logger

from rtunnel.errors import BadSignal
from rtunnel.upkeep.few_lines import FewLines
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import (
    ANSWER,
    AS_CLIENT,
    ERROR,
    OFFER,
    REGISTER_HOST,
    Signal,
    decode_signal,
    encode_signal,
)

#: Messages of one connection that could not be understood, before it is closed.
MAX_MISTAKES = 10
#: Offers of one party of which we remember that they wait for an answer; of more, the oldest is forgotten.
MAX_UNANSWERED = 16
#: Messages that are held for a party that waits for its ID.
MAX_HELD = 16

#: WebSocket close codes (RFC 6455, section 7.4.1, and IANA's registry).
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013


class Line(Protocol):
    """A connection, as the switchboard needs it. None of these calls back before it returns."""

    #: The other end's address, for the log.
    peer_name: str

    @property
    def is_slow(self) -> bool:
        """It has not read what was sent, and others should not make that more."""

    def send(self, text: bytes) -> None:
        """Send a text message."""

    def close(self, code: int, reason: str) -> None:
        """Close, behind what was sent."""

    def ask(self) -> None:
        """Ask whether the other end is there: :meth:`Switchboard.answered` or :meth:`Switchboard.left` follows."""

    def expect_answer(self) -> None:
        """The other end gets an offer: what it says to that is not held against it."""


class State(Enum):
    """How far a party is."""

    NEW = "new"
    WAITING = "waiting"
    REGISTERED = "registered"
    GONE = "gone"


@dataclass(eq=False, slots=True)
class Party:
    """A host or a client.

    :ivar asked: those who have an offer of it, and have not answered.
    :ivar asked_by: those whose offer it has not answered.
    """

    line: Line
    state: State = State.NEW
    id: str = ""
    is_host: bool = False
    mistakes: int = 0
    held: list[bytes] = field(default_factory=list)
    asked: dict[Party, None] = field(default_factory=dict)
    asked_by: dict[Party, None] = field(default_factory=dict)


class Switchboard:
    """All parties.

    :param max_hosts: registered at once.
    :param max_clients: registered at once.
    :param max_message: bytes of a message.
    :param lines: for what strangers can make us log.
    :ivar hosts: how many are registered.
    :ivar clients: how many are registered.
    """

    log = Logger()

    def __init__(self, max_hosts: int, max_clients: int, max_message: int, lines: FewLines) -> None:
        self.hosts = 0
        self.clients = 0
        self._max_hosts = max_hosts
        self._max_clients = max_clients
        self._max_message = max_message
        self._lines = lines
        self._parties: dict[str, Party] = {}
        self._newcomers: dict[str, Party] = {}

    # What lines tell

    def receive(self, party: Party, text: bytes) -> None:
        """*party* sent a text message."""
        if party.state is State.GONE:
            return
        if party.state is State.WAITING:
            party.held.append(text)
            if len(party.held) > MAX_HELD:
                self.dismiss(party, "too many messages before the ID is free", POLICY_VIOLATION, about=party.id)
            return
        try:
            signal = decode_signal(text)
        except BadSignal as error:
            self._mistake(party, str(error))
            return
        if signal.type == ERROR:
            self._mistake(party, "a message of the type 'error', which only the server sends")
        elif party.state is State.NEW:
            self._register(party, signal, text)
        else:
            self._route(party, signal)

    def answered(self, holder: Party) -> None:
        """*holder* is there: who wants its ID does not get it."""
        newcomer = self._newcomers.pop(holder.id, None)
        if newcomer is not None:
            self._refuse_id(newcomer)

    def left(self, party: Party) -> None:
        """The line of *party* is closed, or will be; may be called twice."""
        state, party.state = party.state, State.GONE
        party.held.clear()
        if state is State.WAITING:
            del self._newcomers[party.id]
        if state is not State.REGISTERED:
            return
        del self._parties[party.id]
        self._count(party, -1)
        self._log_party(party, "gone")
        for other in party.asked:
            del other.asked_by[party]
            self._send_error(other, f"'{party.id}' is gone, and its offer with it", about=party.id)
        for other in party.asked_by:
            del other.asked[party]
            self._send_error(other, f"'{party.id}' is gone", about=party.id)
        party.asked.clear()
        party.asked_by.clear()
        self._let_in(self._newcomers.pop(party.id, None))

    def dismiss(self, party: Party, why: str, code: int, about: str = "") -> None:
        """Tell *party* why, and close its line.

        :param code: of the WebSocket's close frame.
        :param about: the ID that *why* is about.
        """
        if party.state is State.GONE:
            return
        self._lines.warn("{peer} is sent away: {why}", peer=party.line.peer_name, why=clean_text(why))
        self._send_error(party, why, about)
        self.left(party)
        party.line.close(code, why)

    # Registering

    def _register(self, party: Party, signal: Signal, text: bytes) -> None:
        if not signal.sender_id:
            self._mistake(party, "a first message without a sender_id")
            return
        party.id = signal.sender_id
        party.is_host = signal.type == REGISTER_HOST and signal.payload != AS_CLIENT
        holder = self._parties.get(party.id)
        if holder is not None:
            self._wait_for(holder, party, text)
        elif party.is_host and self.hosts >= self._max_hosts:
            self.dismiss(party, "the server has too many hosts", TRY_AGAIN_LATER, about=party.id)
        elif not party.is_host and self.clients >= self._max_clients:
            self.dismiss(party, "the server has too many clients", TRY_AGAIN_LATER, about=party.id)
        else:
            party.state = State.REGISTERED
            self._parties[party.id] = party
            self._count(party, 1)
            self._log_party(party, "registered")
            if signal.type != REGISTER_HOST:
                self._route(party, signal)

    def _count(self, party: Party, change: int) -> None:
        if party.is_host:
            self.hosts += change
        else:
            self.clients += change

    def _wait_for(self, holder: Party, party: Party, text: bytes) -> None:
        if party.id in self._newcomers:
            self._refuse_id(party)
            return
        party.state = State.WAITING
        party.held.append(text)
        self._newcomers[party.id] = party
        holder.line.ask()

    def _refuse_id(self, party: Party) -> None:
        # It may be in the table of newcomers no more.
        party.state = State.NEW
        self.dismiss(party, f"the ID '{party.id}' is in use", POLICY_VIOLATION, about=party.id)

    def _let_in(self, newcomer: Party | None) -> None:
        if newcomer is None:
            return
        newcomer.state = State.NEW
        held, newcomer.held = newcomer.held, []
        for text in held:
            self.receive(newcomer, text)

    def _log_party(self, party: Party, what: str) -> None:
        log = self._lines.info if party.is_host else self.log.debug
        kind = "host" if party.is_host else "client"
        log("{kind} '{id}' at {peer} {what}", kind=kind, id=clean_text(party.id), peer=party.line.peer_name, what=what)

    # Routing

    def _route(self, party: Party, signal: Signal) -> None:
        if signal.sender_id not in ("", party.id):
            why = f"'{party.id}' cannot speak as '{signal.sender_id}'"
            self.dismiss(party, why, POLICY_VIOLATION, about=party.id)
            return
        if signal.type == REGISTER_HOST:
            self._mistake(party, "a second 'register-host'")
            return
        if signal.target_id in ("", party.id):
            self._mistake(party, f"a message of the type '{signal.type}' to nobody, or to its own sender")
            return
        target = self._parties.get(signal.target_id)
        if target is None:
            self._send_error(party, f"there is no '{signal.target_id}'", about=signal.target_id)
            return
        if target.line.is_slow:
            self._lines.warn(
                "{peer} reads slowly, and gets no messages of others meanwhile", peer=target.line.peer_name
            )
            self._send_error(party, f"'{target.id}' reads too slowly", about=target.id)
            return
        try:
            text = encode_signal(Signal(signal.type, signal.payload, target.id, party.id))
        except RecursionError:
            self._mistake(party, "a message that is nested too deeply")
            return
        if len(text) > self._max_message:
            # Written anew it may have grown, and would cost the target its connection.
            self._mistake(party, "a message that is too large")
            return
        if signal.type == OFFER:
            self._remember_offer(party, target)
            target.line.expect_answer()
        elif signal.type == ANSWER:
            party.asked_by.pop(target, None)
            target.asked.pop(party, None)
        target.line.send(text)

    def _remember_offer(self, party: Party, target: Party) -> None:
        if target not in party.asked and len(party.asked) >= MAX_UNANSWERED:
            oldest = next(iter(party.asked))
            del party.asked[oldest], oldest.asked_by[party]
        party.asked[target] = None
        target.asked_by[party] = None

    # Errors

    def _mistake(self, party: Party, what: str) -> None:
        party.mistakes += 1
        if party.mistakes >= MAX_MISTAKES:
            self.dismiss(party, f"too many bad messages, the last was {what}", POLICY_VIOLATION)
        else:
            self._lines.warn("{peer} sent {what}", peer=party.line.peer_name, what=clean_text(what))
            self._send_error(party, f"the server cannot use {what}")

    def _send_error(self, party: Party, why: str, about: str = "") -> None:
        party.line.send(encode_signal(Signal(ERROR, why, sender_id=about)))
