"""The signaling server's registry of hosts and clients, and the routing of their messages.

Messages come in as text and go out through the :class:`~rtunnel.rtc.signaling.party.Line` of each party; there is no
socket and no clock here.

Hosts and clients share one name space of IDs, and any two of them may exchange messages.

- The first message registers the party under its ``sender_id``. A host registers with ``register-host``. A client
  registers with its first offer, or, if it is an rtunnel client, with ``register-host`` and the payload ``"client"``.
  After that ``sender_id`` may be left out; a different one ends the connection.
- A message that cannot be routed is answered with an ``error``. Its ``sender_id`` is the ID that the error is about:
  the target's, or the party's own if it cannot be registered. Without one, the error is about the message itself.
- A message that cannot be understood (not JSON, no type or an unknown one, no target, an ``error``, a second
  ``register-host``) is answered with an ``error`` too, and the connection stays; :data:`MAX_MISTAKES` of them end it.
- When one end of an unanswered offer goes away, the other end is told with an ``error``.
- An offer to an ID that begins with ``rtunnel-invite-`` tries an invitation. There is a limit to these, which counts
  before anybody learns whether that invitation exists.
- A registration may have a key. Whoever comes with the ID and the key of another party is the same end on a new
  connection, and takes its place at once.

No message is stored, except those of a party that waits for its ID.

In a cluster (:mod:`rtunnel.rtc.signaling.crossing`) an ID is claimed before its party is registered, and a party waits
meanwhile. A message to an ID that is not registered here is for another node. The ends of an offer that has crossed are
known at both nodes: at each of them the other end is a party with a :attr:`~rtunnel.rtc.signaling.party.Party.node`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from hmac import compare_digest

from twisted.logger import Logger

from rtunnel.errors import BadSignal
from rtunnel.rtc.signaling.party import POLICY_VIOLATION, TRY_AGAIN_LATER, Others, Party, State
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.invitations.code import ID_PREFIX
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

#: After how many messages that cannot be understood a connection is closed.
MAX_MISTAKES = 10
#: How many unanswered offers of one party are remembered; beyond that the oldest is forgotten.
MAX_UNANSWERED = 16
#: How many messages are kept for a party that waits for its ID.
MAX_HELD = 16
#: The same in a cluster, where everybody waits for a moment. An offer has many candidates behind it.
MAX_HELD_IN_CLUSTER = 128


class Switchboard:
    """The registry of all parties, which routes their messages.

    :param max_hosts: hosts that may be registered at once. This and the others may be changed.
    :param max_clients: clients that may be registered at once.
    :param max_message: the longest message, in bytes.
    :param log_limiter: for log lines that strangers can cause.
    :param may_try_invitation: counts an offer to an invitation by the budget key of its sender; returns whether it may
        pass.
    :ivar hosts: how many hosts are registered.
    :ivar clients: how many clients are registered.
    :ivar others: the other nodes; None: there is no cluster.
    """

    log = Logger()

    def __init__(
        self,
        max_hosts: int,
        max_clients: int,
        max_message: int,
        log_limiter: LogLimiter,
        may_try_invitation: Callable[[Hashable], bool],
    ) -> None:
        self.hosts = 0
        self.clients = 0
        self.others: Others | None = None
        self.max_hosts = max_hosts
        self.max_clients = max_clients
        self.max_message = max_message
        self._log_limiter = log_limiter
        self._may_try_invitation = may_try_invitation
        self._parties: dict[str, Party] = {}
        self._waiting: dict[str, Party] = {}

    @property
    def registered(self) -> Collection[Party]:
        """Those that are registered."""
        return self._parties.values()

    def party_of(self, name: str) -> Party | None:
        """Return who has the ID *name* at this node, or waits for it."""
        return self._parties.get(name) or self._waiting.get(name)

    # Called by the lines

    def receive(self, party: Party, text: bytes) -> None:
        """Handle a text message of *party*."""
        if party.state is State.GONE:
            return
        if party.state is State.WAITING:
            party.held.append(text)
            if len(party.held) > (MAX_HELD if self.others is None else MAX_HELD_IN_CLUSTER):
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

    def probe_answered(self, holder: Party) -> None:
        """Refuse the ID of *holder* to the party that wants it: the holder is alive."""
        claimant = self._waiting.pop(holder.id, None)
        if claimant is not None:
            self._refuse_id(claimant)

    def left(self, party: Party) -> None:
        """Remove *party*, whose line is closed or about to be. May be called twice."""
        state, party.state = party.state, State.GONE
        party.held.clear()
        if state is State.WAITING:
            del self._waiting[party.id]
        if self.others is not None:
            self.others.left(party)
        if state is not State.REGISTERED:
            return
        del self._parties[party.id]
        self._count(party, -1)
        self._log_party(party, "gone")
        self.tell_gone(party)
        self._admit(self._waiting.pop(party.id, None))

    def tell_gone(self, party: Party) -> None:
        """Tell those whose offers to *party*, or from it, are not answered. Other nodes tell their own."""
        for other in party.offers_to:
            del other.offers_from[party]
            if not other.node:
                self.send_error(other, f"'{party.id}' is gone, and its offer with it", about=party.id)
        for other in party.offers_from:
            del other.offers_to[party]
            if not other.node:
                self.send_error(other, f"'{party.id}' is gone", about=party.id)
        party.offers_to.clear()
        party.offers_from.clear()

    def dismiss(self, party: Party, why: str, code: int, about: str = "") -> None:
        """Send *party* an error, and close its line.

        :param code: of the WebSocket's close frame.
        :param about: the ID that *why* is about.
        """
        if party.state is State.GONE:
            return
        self._log_limiter.warn("{peer} is sent away: {why}", peer=party.line.peer_name, why=clean_text(why))
        self.send_error(party, why, about)
        self.left(party)
        party.line.close(code, why)

    # Registering

    def _register(self, party: Party, signal: Signal, text: bytes) -> None:
        if not signal.sender_id:
            self._mistake(party, "a first message without a sender_id")
            return
        party.id, party.key = signal.sender_id, signal.key
        party.is_host = signal.type == REGISTER_HOST and signal.payload != AS_CLIENT
        holder = self._parties.get(party.id)
        if holder is not None and holder.key and compare_digest(holder.key.encode(), party.key.encode()):
            self._replace(holder, party)
            holder = None
        if holder is not None:
            self._wait_for(holder, party, text)
        elif party.is_host and self.hosts >= self.max_hosts:
            self.dismiss(party, "the server has too many hosts", TRY_AGAIN_LATER, about=party.id)
        elif not party.is_host and self.clients >= self.max_clients:
            self.dismiss(party, "the server has too many clients", TRY_AGAIN_LATER, about=party.id)
        elif self.others is not None and party.claim is None:
            self._claim(self.others, party, text)
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

    def _replace(self, holder: Party, party: Party) -> None:
        # Its old connection may look alive for a long time. The ID stays ours in the cluster.
        if self.others is not None:
            self.others.took_over(holder, party)
        self.replaced(holder)

    def replaced(self, holder: Party) -> None:
        """Remove *holder*: the same end has come on a new connection, perhaps at another node."""
        claimant = self._waiting.pop(holder.id, None)
        if claimant is not None:
            self._refuse_id(claimant)
        self.left(holder)
        holder.line.close(POLICY_VIOLATION, "the same end has connected again")

    def _wait_for(self, holder: Party, party: Party, text: bytes) -> None:
        if party.id in self._waiting:
            self._refuse_id(party)
            return
        party.state = State.WAITING
        party.held.append(text)
        self._waiting[party.id] = party
        holder.line.probe()

    def probe(self, claimant: Party) -> None:
        """Find out for *claimant*, who is at another node, whether the holder of its ID is alive."""
        holder = self._parties.get(claimant.id)
        if holder is None and claimant.id not in self._waiting:
            self._admit(claimant)
        elif holder is None or claimant.id in self._waiting:
            self._refuse_id(claimant)
        else:
            self._waiting[claimant.id] = claimant
            holder.line.probe()

    def _claim(self, others: Others, party: Party, text: bytes) -> None:
        before = self._waiting.get(party.id)
        if before is not None and before.key and compare_digest(before.key.encode(), party.key.encode()):
            self.left(before)
            before.line.close(POLICY_VIOLATION, "the same end has connected again")
        elif before is not None:
            self._refuse_id(party)
            return
        party.state = State.WAITING
        party.held.append(text)
        self._waiting[party.id] = party
        others.claim(party)

    def claimed(self, party: Party) -> None:
        """Register *party*, whose ID this node has claimed."""
        self._admit(self._waiting.pop(party.id))

    def refused(self, party: Party) -> None:
        """Refuse its ID to *party*: somebody at another node has it."""
        del self._waiting[party.id]
        self._refuse_id(party)

    def _refuse_id(self, party: Party) -> None:
        if self.others is not None and party.node:
            self.others.answer(party, is_free=False)
            return
        # The party may no longer be in the table.
        party.state = State.NEW
        self.dismiss(party, f"the ID '{party.id}' is in use", POLICY_VIOLATION, about=party.id)

    def _admit(self, claimant: Party | None) -> None:
        if claimant is None:
            return
        if self.others is not None and claimant.node:
            self.others.answer(claimant, is_free=True)
            return
        claimant.state = State.NEW
        held, claimant.held = claimant.held, []
        for text in held:
            self.receive(claimant, text)
        claimant.line.admitted()

    def _log_party(self, party: Party, what: str) -> None:
        log = self._log_limiter.info if party.is_host else self.log.debug
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
        is_try = signal.type == OFFER and signal.target_id.startswith(ID_PREFIX)
        if is_try and not self._may_try_invitation(party.line.budget_key):
            self._log_limiter.warn("{peer} tries too many invitations; some are refused", peer=party.line.peer_name)
            why = "too many codes of invitations were tried from your address; try again in some minutes"
            self.send_error(party, why, about=signal.target_id)
            return
        if is_try and self.others is not None:
            self.others.tried(party)
        target = self._parties.get(signal.target_id)
        if target is not None:
            self._pass_on(party, target, signal)
        elif self.others is None:
            self.send_error(party, f"there is no '{signal.target_id}'", about=signal.target_id)
        elif (text := self._encode(party, signal)) is not None:
            self.others.pass_on(party, signal, text)

    def pass_in(self, party: Party, signal: Signal) -> None:
        """Pass on a message of *party*, which is at another node, to somebody here."""
        target = self._parties.get(signal.target_id)
        if target is None:
            self.send_error(party, f"there is no '{signal.target_id}'", about=signal.target_id)
        else:
            self._pass_on(party, target, signal)

    def _encode(self, party: Party, signal: Signal) -> bytes | None:
        try:
            text = encode_signal(Signal(signal.type, signal.payload, signal.target_id, party.id))
        except RecursionError:
            self._mistake(party, "a message that is nested too deeply")
            return None
        if len(text) > self.max_message:
            # Encoding may have made the message longer. One that is too long would end the target's connection.
            self._mistake(party, "a message that is too large")
            return None
        return text

    def _pass_on(self, party: Party, target: Party, signal: Signal) -> None:
        if target.line.is_slow:
            self._log_limiter.warn(
                "{peer} reads slowly, and gets no messages from others meanwhile", peer=target.line.peer_name
            )
            self.send_error(party, f"'{target.id}' reads too slowly", about=target.id)
            return
        text = self._encode(party, signal)
        if text is None:
            return
        if signal.type == OFFER and not target.line.takes_offer_of(party.line):
            self._log_limiter.warn(
                "{peer} makes too many offers to '{id}'; some are refused",
                peer=party.line.peer_name,
                id=clean_text(target.id),
            )
            self.send_error(party, f"'{target.id}' gets too many offers", about=target.id)
            return
        self.remember(party, target, signal)
        target.line.send(text)

    def remember(self, party: Party, target: Party, signal: Signal) -> None:
        """Take note that an offer of *party* is not answered by *target* yet, or that *party* answers one."""
        if signal.type == ANSWER:
            party.offers_from.pop(target, None)
            target.offers_to.pop(party, None)
        if signal.type != OFFER:
            return
        if target not in party.offers_to and len(party.offers_to) >= MAX_UNANSWERED:
            oldest = next(iter(party.offers_to))
            del party.offers_to[oldest], oldest.offers_from[party]
        party.offers_to[target] = None
        target.offers_from[party] = None

    # Errors

    def _mistake(self, party: Party, what: str) -> None:
        party.mistakes += 1
        if party.mistakes >= MAX_MISTAKES:
            self.dismiss(party, f"too many bad messages, the last was {what}", POLICY_VIOLATION)
        else:
            self._log_limiter.warn("{peer} sent {what}", peer=party.line.peer_name, what=clean_text(what))
            self.send_error(party, f"the server cannot use {what}")

    def send_error(self, party: Party, why: str, about: str = "") -> None:
        """Tell *party*, here or at another node, what is wrong.

        :param about: the ID that *why* is about; empty: its last message.
        """
        party.line.send(encode_signal(Signal(ERROR, why, sender_id=about)))
