"""A bounded number of UDP flows that end when idle.

A flow is the datagrams from one source to one destination, and the answers. UDP has no connections, so a flow begins
with its first datagram, and ends when none has passed for a while or when another flow needs its place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rtunnel.relay.interfaces import CLOSED, IDLE

_log = Logger()

#: What a flow costs in itself, in bytes.
COST = 4 * 1024
#: Datagrams, and their bytes, that may wait for a flow that cannot send yet.
MAX_WAITING = 16
MAX_WAITING_BYTES = 65536
#: Seconds without a datagram after which a flow ends that was no more than a question and its answer, as those of DNS
#: are; and any other, of which it is not known whether it is over. WireGuard is silent for up to 180 s.
BRIEF_IDLE = 30.0
LASTING_IDLE = 300.0


class WaitingDatagrams:
    """A short queue of the first datagrams of a flow that cannot send yet.

    :ivar bytes: their sizes together.
    """

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, data: bytes) -> bool:
        """Keep *data*; return False if there is no room."""
        if len(self._waiting) >= MAX_WAITING or self.bytes + len(data) > MAX_WAITING_BYTES:
            return False
        self._waiting.append(data)
        self.bytes += len(data)
        return True

    def take(self) -> list[bytes]:
        """Remove and return all datagrams."""
        waiting, self._waiting, self.bytes = self._waiting, [], 0
        return waiting


class Flow:
    """One flow: its counts, its place in the table, and its end. A subclass moves the datagrams.

    :param name: for the log.
    :param lost: called with the reason for each datagram that is lost.
    :ivar last_used: when a datagram last passed; the table sets it.
    :ivar exchanges: how often an answer followed a question; the table sets it.
    :ivar asked: the last datagram was a question; the table sets it.
    :ivar sent: datagrams that were passed on to the service, or towards it.
    :ivar received: datagrams from the service that were passed on.
    :ivar dropped: datagrams that were lost.
    :ivar bytes_received: of the datagrams that its own socket has received, or that have come from its visitor.
    :ivar bytes_sent: of those that went there.
    :ivar waiting: datagrams that cannot be sent yet.
    :ivar touched: set whenever a datagram passes; the search for idle connections clears it.
    :ivar ended: why the flow has ended; empty until then.
    """

    def __init__(self, table: FlowTable, name: str, lost: Callable[[str], None]) -> None:
        self.table = table
        self.name = name
        self.last_used = 0.0
        self.exchanges = 0
        self.asked = False
        self.sent = 0
        self.received = 0
        self.dropped = 0
        self.bytes_received = self.bytes_sent = 0
        self.waiting = WaitingDatagrams()
        self.touched = True
        self.ended = ""
        self._lost = lost

    @property
    def held(self) -> int:
        """How many bytes of memory it takes."""
        return COST + self.waiting.bytes

    @property
    def reason(self) -> str:
        """Why it has ended, as the access log has it."""
        return IDLE if self.ended == IDLE else CLOSED

    def lose(self, why: str) -> None:
        """Count a datagram that is lost."""
        self.dropped += 1
        self._lost(why)

    def end(self, why: str) -> None:
        """End the flow, and free its place. May be called again."""
        if self.ended:
            return
        self.ended = why
        for _ in self.waiting.take():
            self.lose("the flow has ended")
        self.table.discard(self)
        _log.debug(
            "UDP flow {flow} ends ({why}); sent {sent}, received {received}, dropped {dropped}",
            flow=self.name,
            why=why,
            sent=self.sent,
            received=self.received,
            dropped=self.dropped,
        )
        self.close()

    def cut(self) -> None:
        """End the flow, as its descriptor is needed."""
        self.end("made room for another")

    def close(self) -> None:
        """Close what the flow holds. Called once, when it ends."""


class FlowTable:
    """All flows, in the order of their last use. A flow ends when it has been idle for too long, or when another needs
    its place and it has been idle the longest.

    There is one timer for all flows, and none while there is no flow.

    :param idle: seconds without a datagram after which a flow ends; None: :data:`BRIEF_IDLE`, or :data:`LASTING_IDLE`
        for flows that went both ways more than once.
    :ivar closing: flows that have ended but still hold a channel, which the far end must close too; their owner
        maintains this.
    """

    def __init__(self, clock: IReactorTime, max_flows: int, idle: float | None) -> None:
        self._clock = clock
        self.set_idle(idle)
        #: Brief flows and lasting ones.
        self._flows: tuple[OrderedDict[Flow, None], OrderedDict[Flow, None]] = OrderedDict(), OrderedDict()
        self._timer: IDelayedCall | None = None
        self.max_flows = max_flows
        self.closing: set[Flow] = set()

    def set_idle(self, idle: float | None) -> None:
        """Let flows end after so many seconds; see *idle* above."""
        self._idle = (BRIEF_IDLE, LASTING_IDLE) if idle is None else (idle, idle)

    def __len__(self) -> int:
        return sum(map(len, self._flows))

    def holdings(self) -> Iterator[tuple[int, Flow]]:
        """Yield how many bytes of memory each flow takes."""
        for flow in self:
            yield flow.held, flow

    def __iter__(self) -> Iterator[Flow]:
        return iter([flow for flows in self._flows for flow in flows])

    def add(self, flow: Flow) -> None:
        """Add a flow that begins."""
        while len(self) >= self.max_flows:
            self._next_to_go().end("made room for another")
        flow.last_used = self._clock.seconds()
        self._flows[0][flow] = None
        if self._timer is None:
            self._timer = self._clock.callLater(self._idle[0], self._sweep)

    def _next_to_go(self) -> Flow:
        longest_idle = [next(iter(flows)) for flows in self._flows if flows]
        return min(longest_idle, key=lambda flow: flow.last_used)

    def use(self, flow: Flow, *, answer: bool) -> None:
        """Note that a datagram passed. Only for flows in this table.

        :param answer: it came from the service.
        """
        flow.last_used = self._clock.seconds()
        flow.touched = True
        flow.exchanges += answer and flow.asked
        flow.asked = not answer
        flows = self._flows[flow.exchanges > 1]
        if flow not in flows:
            self._remove(flow)
            flows[flow] = None
        else:
            flows.move_to_end(flow)

    def _remove(self, flow: Flow) -> None:
        for flows in self._flows:
            flows.pop(flow, None)

    def discard(self, flow: Flow) -> None:
        """Remove a flow that has ended."""
        self._remove(flow)
        if not len(self) and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        # A flow that begins in the meantime is brief.
        soonest = self._idle[0]
        for flows, idle in zip(self._flows, self._idle, strict=True):
            for flow in list(flows):
                left = flow.last_used + idle - now
                if left > 0:
                    soonest = min(soonest, left)
                    break
                flow.end(IDLE)
        if len(self):
            self._timer = self._clock.callLater(soonest, self._sweep)
