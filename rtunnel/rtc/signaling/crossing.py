"""Signaling between the nodes of a cluster: a message to an ID that is not registered here goes to the node with it.

    party -> switchboard -> outbox -> find -> send ==> inbox -> find -> switchboard -> party

A message keeps its text, as it would have been sent here, and has with it by what its sender's offers are counted
(docs/wire.rst, "Signaling nodes"). What belongs to one sender goes one after the other: its look-ups, its messages, and
that it is gone. The receiving node reads the text as it reads that of a line, and asks the directory whether the
sender's ID is held where the message comes from. Errors come back by the same way, and are taken only if they are about
an ID that is known to be there.

An offer always asks the directory where its target is; what follows it goes to the same node.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Coroutine, Hashable, Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.cluster.interface import Away, IDirectory
from rtunnel.errors import BadSignal
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.claims import ALIVE, AWAY, FREE, MOVED, PROBE_ID, Claims, key_of
from rtunnel.rtc.signaling.limits import ALL_MISSES, ALL_MISSES_BURST, MISSES, MISSES_BURST, MessageRate
from rtunnel.rtc.signaling.party import Party, State
from rtunnel.rtc.signaling.remotes import Remote, Remotes
from rtunnel.rtc.signaling.switchboard import Switchboard
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import do_all
from rtunnel.upkeep.token_bucket import KeyedBuckets
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import ANSWER, CANDIDATE, ERROR, OFFER, Signal, decode_signal, is_id

#: What a node says that it is, and the kind of the directory's messages.
KIND, MESSAGES = "rtc-signal", "signal"
#: Bytes of one sender, and of all, that may wait on their way to other nodes.
MAX_UNSENT, MAX_ALL_UNSENT = 512 * 1024, 16 * 1024 * 1024
#: Bytes from one node that may wait until the directory has said who is there.
MAX_UNHEARD = 8 * 1024 * 1024
#: What each message that waits counts for, beside its text.
OVERHEAD = 512
#: The longest budget key, in characters.
MAX_KEY = 256

#: What messages do: pass on a party's, return an error to one, say that one is gone, count a try of an invitation.
PASS, RETURN, GONE, TRY = "pass", "return", "gone", "try"


class Crossing:
    """This node among the others; see :class:`~rtunnel.rtc.signaling.party.Others`.

    :param settings: returns the settings of now.
    :param may_try_invitation: counts an offer to an invitation by a budget key.
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        directory: IDirectory,
        switchboard: Switchboard,
        settings: Callable[[], SignalSettings],
        log_limiter: LogLimiter,
        may_try_invitation: Callable[[Hashable], bool],
    ) -> None:
        self._clock = clock
        self._directory = directory
        self._switchboard = switchboard
        self._settings = settings
        self._log_limiter = log_limiter
        self._may_try = may_try_invitation
        self._running: set[Deferred[None]] = set()
        self._nodes: set[str] = set()
        # By IDs, as an end that comes again does not overtake what its old connection has said.
        self._outboxes: dict[str, deque[Callable[[], Coroutine[Any, Any, None]]]] = {}
        self._unsent: Counter[str] = Counter()
        self._all_unsent = 0
        self._inboxes: dict[tuple[str, str], deque[tuple[int, Callable[[], None]]]] = {}
        self._unheard: Counter[str] = Counter()
        self._misses = KeyedBuckets(MISSES, MISSES_BURST, ALL_MISSES, ALL_MISSES_BURST, clock.seconds())
        self.remotes = Remotes(self._build, switchboard.tell_gone)
        self.claims = Claims(clock, directory, switchboard, self._send, self._start, settings, self.remotes.remove)
        self.claim, self.took_over, self.answer = self.claims.claim, self.claims.took_over, self.claims.answer
        directory.announce({"kind": KIND})
        directory.listen(MESSAGES, self._heard)
        directory.watch(self._nodes_changed)

    @property
    def nodes(self) -> int:
        """How many signaling servers there are, this one included."""
        return 1 + len(self._others)

    @property
    def _others(self) -> list[str]:
        # Servers of the reverse tunnel may share the directory.
        return [node for node, about in self._directory.nodes.items() if about.get("kind") == KIND]

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        running = Deferred.fromCoroutine(work)
        if not running.called:
            self._running.add(running)
        running.addErrback(self._failed)
        running.addCallback(lambda _: self._running.discard(running))

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("signaling in the cluster has failed; please report this", failure=failure)

    async def finish(self, patience: float) -> None:
        """Wait until everything is sent, for some seconds at most."""
        waiting: Deferred[Any] = DeferredList(list(self._running))
        timer = self._clock.callLater(patience, waiting.cancel)
        await waiting
        if timer.active():
            timer.cancel()

    # To other nodes

    async def _send(self, node: str, message: Mapping[str, Any]) -> bool:
        return await self._directory.send(node, MESSAGES, message)

    def pass_on(self, party: Party, signal: Signal, text: bytes) -> None:
        """See :class:`~rtunnel.rtc.signaling.party.Others`."""
        size = len(text) + OVERHEAD
        if not self._misses.has(party.line.budget_key, 1, self._clock.seconds()):
            self._log_limiter.warn("{peer} looks for too many IDs that nobody has", peer=party.line.peer_name)
            why = "too many messages from your address to IDs that nobody has"
            self._switchboard.send_error(party, why, about=signal.target_id)
            return
        if self._unsent[party.id] + size > MAX_UNSENT or self._all_unsent + size > MAX_ALL_UNSENT:
            self._log_limiter.warn("{peer} sends faster to other nodes than these take", peer=party.line.peer_name)
            why = f"'{signal.target_id}' is at another server, which takes messages too slowly"
            self._switchboard.send_error(party, why, about=signal.target_id)
            return
        self._unsent[party.id] += size
        self._all_unsent += size
        self._put(party.id, partial(self._carry, party, signal, text, size))

    def _put(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        outbox = self._outboxes.get(name)
        if outbox is not None:
            outbox.append(work)
            return
        self._outboxes[name] = deque([work])
        self._start(self._empty(name))

    async def _empty(self, name: str) -> None:
        outbox = self._outboxes[name]
        try:
            while outbox:
                await outbox.popleft()()
        finally:
            del self._outboxes[name]

    async def _carry(self, party: Party, signal: Signal, text: bytes, size: int) -> None:
        target = signal.target_id
        try:
            why = "" if await self._deliver(party, signal, text) else f"there is no '{target}'"
        except Away as away:
            why = f"'{target}' is not at this server, and {AWAY}: {away}"
        self._all_unsent -= size
        self._unsent[party.id] -= size
        if not self._unsent[party.id]:
            del self._unsent[party.id]
        if why and party.state is State.REGISTERED:
            self._switchboard.send_error(party, why, about=target)

    async def _deliver(self, party: Party, signal: Signal, text: bytes) -> bool:
        """Send a message to where its target is. Return whether there is such a node."""
        name, now = signal.target_id, self._clock.seconds()
        message = {"do": PASS, "text": text.decode(), "key": _budget_key(party)}
        remote = self.remotes.get(name)
        nodes: tuple[str, ...]
        if signal.type != OFFER and remote is not None and remote.is_at(remote.node, now):
            nodes = (remote.node,)
        else:
            nodes = await self._directory.find(key_of(name))
        if not nodes:
            self._misses.spend(party.line.budget_key, 1, self._clock.seconds())
        for node in nodes:
            if party.state is State.GONE and signal.type == OFFER:
                return True
            if node == self._directory.node:
                here = self._switchboard.party_of(name)
                if here is None or here.state is not State.REGISTERED:
                    continue
                # It has come here meanwhile.
                self._switchboard.pass_in(party, signal)
                return True
            remote = self.remotes.put(name, node, now)
            if party.state is not State.GONE:
                self._switchboard.remember(party, remote.party, signal)
            if signal.type == OFFER:
                # It may send an answer, and its candidates.
                remote.rate.takes_offer_of(party.line.budget_key, now)
            if await self._send(node, message):
                return True
            party.offers_to.pop(remote.party, None)
            remote.party.offers_from.pop(party, None)
            remote.checked = float("-inf")
        return False

    def tried(self, party: Party) -> None:
        """See :class:`~rtunnel.rtc.signaling.party.Others`."""
        self._start(self._tell(self._others, {"do": TRY, "key": _budget_key(party)}))

    def left(self, party: Party) -> None:
        """See :class:`~rtunnel.rtc.signaling.party.Others`."""
        self.claims.left(party)
        nodes = {other.node for other in (*party.offers_to, *party.offers_from) if other.node}
        if nodes:
            self._put(party.id, partial(self._tell, sorted(nodes), {"do": GONE, "id": party.id}))

    async def _tell(self, nodes: list[str], message: Mapping[str, Any]) -> None:
        try:
            for node in nodes:
                await self._send(node, message)
        except Away:
            # Who is told nothing waits for an answer, and gives up.
            return

    def _return(self, party: Party, text: bytes) -> None:
        self._start(self._tell([party.node], {"do": RETURN, "to": party.id, "text": text.decode()}))

    def _nodes_changed(self) -> None:
        nodes = set(self._directory.nodes)
        gone, self._nodes = self._nodes - nodes, nodes
        if gone:
            self.remotes.remove_nodes(gone)
            self.claims.nodes_gone(gone)

    # From other nodes

    def _build(self, name: str) -> Remote:
        settings = self._settings()
        rate = MessageRate(settings.max_rate, self._clock.seconds(), settings.max_per_address)
        return Remote(name, self._return, rate)

    def _heard(self, node: str, message: Mapping[str, Any]) -> None:
        try:
            self._do(node, message)
        except (BadSignal, ValueError) as error:
            self._complain(node, str(error))

    def _complain(self, node: str, what: str) -> None:
        self._log_limiter.warn("node {node} sent what is not used: {what}", node=clean_text(node), what=what)

    def _do(self, node: str, message: Mapping[str, Any]) -> None:
        do = message.get("do")
        if do == PASS:
            self._pass(node, self._signal(message), _text(message, "key"), len(message["text"]))
        elif do == RETURN:
            self._take_error(node, _name(message, "to"), self._signal(message))
        elif do == GONE:
            self._gone(node, _name(message))
        elif do == TRY:
            self._may_try(_text(message, "key"))
        elif do == PROBE_ID:
            claimant = self._build(_name(message)).party
            claimant.state, claimant.node = State.WAITING, node
            self._switchboard.probe(claimant)
        elif do in (FREE, ALIVE):
            self.claims.heard(node, _name(message), is_free=do == FREE)
        elif do == MOVED:
            self.claims.moved(node, _name(message))
        else:
            raise BadSignal("a message of an unknown kind")

    def _signal(self, message: Mapping[str, Any]) -> Signal:
        text = message.get("text")
        if not isinstance(text, str) or len(text) > self._switchboard.max_message:
            raise BadSignal("a message that is too large, or has no text")
        return decode_signal(text.encode())

    def _pass(self, node: str, signal: Signal, key: str, size: int) -> None:
        name, target = signal.sender_id, signal.target_id
        if signal.type not in (OFFER, ANSWER, CANDIDATE) or not name or target in ("", name):
            raise BadSignal(f"a message of the type '{signal.type}' from nobody, or to nobody")
        self._when_checked(node, name, size, partial(self._pass_in, node, signal, key))

    def _pass_in(self, node: str, signal: Signal, key: str) -> None:
        remote = self.remotes.put(signal.sender_id, node)
        remote.budget_key = key
        if not remote.rate.take(self._clock.seconds()):
            self._complain(node, f"too many messages of '{clean_text(signal.sender_id)}'")
            return
        self._switchboard.pass_in(remote.party, signal)

    def _gone(self, node: str, name: str) -> None:
        inbox = self._inboxes.get((node, name))
        if inbox is None:
            self.remotes.remove(name, node)
        else:
            self._when_checked(node, name, 0, partial(self.remotes.remove, name, node))

    def _when_checked(self, node: str, name: str, size: int, act: Callable[[], None]) -> None:
        """Do something that somebody at *node* wants, once it is known that its ID is held there."""
        remote = self.remotes.get(name)
        inbox = self._inboxes.get((node, name))
        if inbox is None and remote is not None and remote.is_at(node, self._clock.seconds()):
            act()
            return
        size += OVERHEAD
        if self._unheard[node] + size > MAX_UNHEARD:
            self._complain(node, "more than can be checked")
            return
        self._unheard[node] += size
        if inbox is not None:
            inbox.append((size, act))
            return
        self._inboxes[node, name] = deque([(size, act)])
        self._start(self._check(node, name))

    async def _check(self, node: str, name: str) -> None:
        what = f"messages of '{clean_text(name)}', whose ID it does not hold"
        try:
            is_there = node in await self._directory.find(key_of(name))
            if not is_there:
                self.remotes.remove(name, node)
        except Away as away:
            is_there, what = False, f"messages of '{clean_text(name)}', and {AWAY}: {away}"
        here = self._switchboard.party_of(name)
        if here is not None and here.state is State.REGISTERED:
            is_there = False
        waiting = self._inboxes.pop((node, name))
        self._unheard[node] -= sum(size for size, _ in waiting)
        if not self._unheard[node]:
            del self._unheard[node]
        if is_there:
            self.remotes.put(name, node, self._clock.seconds())
            do_all([act for _, act in waiting])
        else:
            self._complain(node, what)

    def _take_error(self, node: str, name: str, signal: Signal) -> None:
        remote, party = self.remotes.get(signal.sender_id), self._switchboard.party_of(name)
        if signal.type != ERROR or remote is None or remote.node != node:
            raise BadSignal(f"a message to '{clean_text(name)}' about somebody who is not there")
        # Perhaps it is somewhere else now.
        remote.checked = float("-inf")
        if party is not None and party.state is State.REGISTERED and not party.line.is_slow:
            self._switchboard.send_error(party, str(signal.payload), about=signal.sender_id)


def _budget_key(party: Party) -> str:
    """Return by what offers of *party* are counted at other nodes: its address, or itself."""
    key = party.line.budget_key
    return key[:MAX_KEY] if isinstance(key, str) else f"ID {party.id}"


def _text(message: Mapping[str, Any], name: str) -> str:
    text = message.get(name)
    if not isinstance(text, str) or len(text) > MAX_KEY:
        raise BadSignal(f"a message without '{name}'")
    return text


def _name(message: Mapping[str, Any], name: str = "id") -> str:
    text = _text(message, name)
    if not is_id(text):
        raise BadSignal(f"a message whose '{name}' is no ID")
    return text
