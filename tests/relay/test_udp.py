"""UDP sockets that no error closes, and the table of flows."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.task import Clock

from rtunnel.relay.udp import sockets as udp_module
from rtunnel.relay.udp.flows import BRIEF_IDLE, LASTING_IDLE, MAX_WAITING, Flow, FlowTable, WaitingDatagrams
from rtunnel.relay.udp.sockets import UdpSocket
from tests.needs import needs_ipv6
from tests.reverse.net import HOST, reactor, turns, until
from tests.rtc.udp.parts import Program


class Socket:
    """A :class:`UdpSocket`, and what it told."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, Any]] = []
        self.lost: list[str] = []
        self.udp = UdpSocket(reactor, lambda data, source: self.received.append((data, source)), self.lost.append)


@ensureDeferred
async def test_bound_socket_hears_everybody_and_answers_each() -> None:
    bound, programs = Socket(), [Program() for _ in range(5)]
    bound.udp.bind(HOST, 0)
    address: Any = bound.udp.address
    for number, program in enumerate(programs):
        program.send(b"%d" % number, (HOST, address.port))
    await until(lambda: len(bound.received) == 5)
    for data, source in bound.received:
        bound.udp.send(b"answer " + data, source)
    for number, program in enumerate(programs):
        assert await program.gets() == (b"answer %d" % number, (HOST, address.port))
        program.close()
    bound.udp.close()
    assert bound.udp.address is None
    assert bound.lost == []


@pytest.mark.parametrize("size", [0, 1, 1200, 16384, 60000, 65507])
@ensureDeferred
async def test_every_size_arrives_whole(size: int) -> None:
    connected, program = Socket(), Program()
    connected.udp.connect(*program.address)
    data = bytes(range(256)) * (size // 256 + 1)
    connected.udp.send(data[:size])
    got, source = await program.gets()
    assert got == data[:size]
    program.send(got, source)
    await until(lambda: connected.received)
    assert connected.received == [(data[:size], program.address)]
    connected.udp.close()
    program.close()


@ensureDeferred
async def test_too_large_is_lost_and_said_once() -> None:
    connected, program = Socket(), Program()
    connected.udp.connect(*program.address)
    connected.udp.send(bytes(65508))
    assert connected.lost == ["Message too long"]
    connected.udp.send(b"fits")
    assert (await program.gets())[0] == b"fits"
    connected.udp.close()
    program.close()


@ensureDeferred
async def test_connected_socket_hears_nobody_else() -> None:
    connected, program, stranger = Socket(), Program(), Program()
    connected.udp.connect(*program.address)
    address: Any = connected.udp.address
    stranger.send(b"it is me, honestly", (HOST, address.port))
    await turns()
    program.send(b"me", (HOST, address.port))
    await until(lambda: connected.received)
    assert connected.received == [(b"me", program.address)]
    connected.udp.close()
    program.close()
    stranger.close()


@ensureDeferred
async def test_refused_then_there_again_loses_no_further_datagram() -> None:
    connected, program = Socket(), Program()
    address = program.address
    program.close()
    connected.udp.connect(*address)
    connected.udp.send(b"nobody hears this")
    await until(lambda: connected.lost == ["Connection refused"])
    # Unread, the next ICMP error waits for the next datagram.
    connected.udp.send(b"nor this")
    program = Program(*address)
    connected.udp.send(b"this one")
    assert (await program.gets())[0] == b"this one"
    assert connected.lost == ["Connection refused"] * 2
    connected.udp.close()
    program.close()


@ensureDeferred
async def test_no_way_to_an_address_is_lost_not_raised() -> None:
    bound = Socket()
    bound.udp.bind(HOST, 0)
    # From a loopback address there is no way out; to port 0 nothing can be sent.
    bound.udp.send(b"x", ("192.0.2.1", 9))
    bound.udp.send(b"x", (HOST, 0))
    assert len(bound.lost) == 2
    bound.udp.close()


@ensureDeferred
async def test_closing_in_the_middle_of_reading() -> None:
    received: list[object] = []

    def close_at_once(data: bytes, source: Any) -> None:
        received.append(data)
        udp.close()

    udp = UdpSocket(reactor, close_at_once, received.append)
    udp.bind(HOST, 0)
    address: Any = udp.address
    program = Program()
    for _ in range(3):
        program.send(b"x", (HOST, address.port))
    await until(lambda: received)
    await turns()
    assert received == [b"x"]
    udp.send(b"closed", program.address)
    udp.close()
    program.close()


def test_bind_prefers_ipv4_and_says_what_the_system_says() -> None:
    one, other = Socket(), Socket()
    one.udp.bind("localhost", 0)
    address: Any = one.udp.address
    assert address.host == HOST
    with pytest.raises(OSError, match="in use"):
        other.udp.bind(HOST, address.port)
    assert other.udp.address is None
    with pytest.raises(socket.gaierror):
        other.udp.bind("no-such-name.invalid", 0)
    one.udp.close()
    one.udp.bind("", 0)
    address = one.udp.address
    assert address.host == "0.0.0.0"
    one.udp.close()


@needs_ipv6
@ensureDeferred
async def test_ipv6() -> None:
    bound, connected = Socket(), Socket()
    bound.udp.bind("::1", 0)
    address: Any = bound.udp.address
    connected.udp.connect("::1", address.port)
    connected.udp.send(b"ping")
    await until(lambda: bound.received)
    bound.udp.send(b"pong", bound.received[0][1])
    await until(lambda: connected.received)
    assert connected.received[0][0] == b"pong"
    bound.udp.close()
    connected.udp.close()


def test_waiting_datagrams_are_few_and_in_order() -> None:
    waiting = WaitingDatagrams()
    texts = [b"%d" % number for number in range(MAX_WAITING)]
    assert all(waiting.put(data) for data in texts)
    assert not waiting.put(b"")
    assert waiting.take() == texts
    assert waiting.take() == []
    assert waiting.put(bytes(65507))
    assert waiting.put(bytes(29))
    assert not waiting.put(b"x")
    assert len(waiting) == 2


class FakeFlow(Flow):
    def __init__(self, table: FlowTable) -> None:
        self.lost: list[str] = []
        self.closed = 0
        super().__init__(table, "of a test", self.lost.append)
        table.add(self)

    def close(self) -> None:
        self.closed += 1


def test_a_flow_ends_once_and_loses_what_waits() -> None:
    clock = Clock()
    table = FlowTable(clock, 10, 60.0)
    flow = FakeFlow(table)
    for data in (b"one", b"two"):
        assert flow.waiting.put(data)
    flow.lose("too large")
    flow.end("first")
    flow.end("second")
    assert (flow.ended, flow.closed, flow.dropped) == ("first", 1, 3)
    assert flow.lost == ["too large", "the flow has ended", "the flow has ended"]
    assert len(table) == 0
    assert clock.getDelayedCalls() == []


def test_idle_flows_end_and_used_ones_stay() -> None:
    clock = Clock()
    table = FlowTable(clock, 10, 60.0)
    quiet, busy = FakeFlow(table), FakeFlow(table)
    for _ in range(7):
        clock.advance(10)
        table.use(busy, answer=False)
    assert (quiet.ended, busy.ended) == ("idle", "")
    assert list(table) == [busy]
    clock.advance(59)
    assert busy.ended == ""
    clock.advance(1)
    assert busy.ended == "idle"
    assert len(table) == 0
    assert clock.getDelayedCalls() == []


def test_the_end_of_one_flow_leaves_the_others_their_time() -> None:
    clock = Clock()
    table = FlowTable(clock, 10, 60.0)
    one, other = FakeFlow(table), FakeFlow(table)
    one.end("over")
    clock.advance(60)
    assert other.ended == "idle"


def test_there_is_one_timer_at_most() -> None:
    clock = Clock()
    table = FlowTable(clock, 1000, 60.0)
    flows = []
    for _ in range(500):
        flows.append(FakeFlow(table))
        clock.advance(0.1)
        table.use(flows[0], answer=False)
        assert len(clock.getDelayedCalls()) == 1
    for flow in flows:
        flow.end("tired")
    assert clock.getDelayedCalls() == []


def test_the_one_idle_longest_makes_room() -> None:
    clock = Clock()
    table = FlowTable(clock, 3, 60.0)
    one, two, three = (FakeFlow(table) for _ in range(3))
    table.use(one, answer=False)
    four = FakeFlow(table)
    assert two.ended == "made room for another"
    assert list(table) == [three, one, four]
    table.discard(two)
    for flow in table:
        flow.end("over")
    assert clock.getDelayedCalls() == []


def test_idle_times_differ_by_last_use() -> None:
    clock = Clock()
    table = FlowTable(clock, 10, 60.0)
    ends = {}
    for number in range(3):
        ends[number] = FakeFlow(table)
        clock.advance(20)
    for number in range(3):
        assert ends[number].ended == "idle"
        clock.advance(19.5)
        clock.advance(0.5)
    assert clock.getDelayedCalls() == []


QUESTION, ANSWER = False, True


@pytest.mark.parametrize(
    ("passed", "idle"),
    [
        ([QUESTION], BRIEF_IDLE),
        ([QUESTION, ANSWER], BRIEF_IDLE),
        ([QUESTION] * 9, BRIEF_IDLE),
        # As glibc asks for addresses of both kinds.
        ([QUESTION, QUESTION, ANSWER, ANSWER], BRIEF_IDLE),
        ([ANSWER, ANSWER], BRIEF_IDLE),
        ([QUESTION, ANSWER, QUESTION], BRIEF_IDLE),
        ([QUESTION, ANSWER, QUESTION, ANSWER], LASTING_IDLE),
        ([QUESTION, ANSWER, QUESTION, ANSWER, ANSWER, QUESTION], LASTING_IDLE),
    ],
)
def test_a_flow_that_went_both_ways_more_than_once_lasts_longer(passed: list[bool], idle: float) -> None:
    clock = Clock()
    table = FlowTable(clock, 10, None)
    FakeFlow(table)
    clock.advance(20)
    flow = FakeFlow(table)
    for answer in passed:
        clock.advance(2)
        table.use(flow, answer=answer)
    clock.advance(idle - 0.5)
    assert flow.ended == ""
    # One that begins late ends in time all the same.
    late = FakeFlow(table)
    clock.advance(0.5)
    assert flow.ended == "idle"
    clock.advance(BRIEF_IDLE - 0.5)
    assert late.ended == "idle"
    assert clock.getDelayedCalls() == []


def test_a_time_that_is_set_is_that_of_all_flows() -> None:
    clock = Clock()
    table = FlowTable(clock, 10, 60.0)
    brief, lasting = FakeFlow(table), FakeFlow(table)
    for answer in (QUESTION, ANSWER) * 3:
        table.use(lasting, answer=answer)
    clock.advance(59)
    assert (brief.ended, lasting.ended) == ("", "")
    clock.advance(1)
    assert (brief.ended, lasting.ended) == ("idle", "idle")


def test_the_one_idle_longest_makes_room_whether_it_is_brief_or_not() -> None:
    clock = Clock()
    table = FlowTable(clock, 2, None)
    lasting, brief = FakeFlow(table), FakeFlow(table)
    for answer in (QUESTION, ANSWER) * 2:
        table.use(lasting, answer=answer)
    clock.advance(1)
    table.use(brief, answer=QUESTION)
    FakeFlow(table)
    assert (lasting.ended, brief.ended) == ("made room for another", "")
    assert len(table) == 2
    clock.advance(BRIEF_IDLE)
    assert len(table) == 0


def test_sockets_are_not_inherited() -> None:
    udp = Socket().udp
    udp.bind(HOST, 0)
    handle = socket.socket(fileno=udp.fileno())
    assert not handle.get_inheritable()
    handle.detach()
    udp.close()


@pytest.mark.parametrize("everywhere", ["0.0.0.0", pytest.param("::", marks=needs_ipv6)])
@ensureDeferred
async def test_answer_comes_from_the_address_that_was_asked(everywhere: str) -> None:
    """A program whose socket is connected, as a resolver's or WireGuard's is, takes answers from nowhere else."""
    bound, program = Socket(), Program()
    bound.udp.bind(everywhere, 0)
    address: Any = bound.udp.address
    asked = [("127.0.0.2", address.port), ("127.0.0.1", address.port), ("127.0.0.3", address.port)]
    for where in asked:
        program.send(b"question", where)
    await until(lambda: len(bound.received) == 3)
    assert len({source for _, source in bound.received}) == 3, "each destination has a flow of its own"
    for _, source in bound.received:
        bound.udp.send(b"answer", source)
    assert [await program.gets() for _ in asked] == [(b"answer", where) for where in asked]
    assert bound.lost == []
    bound.udp.close()
    program.close()


@ensureDeferred
async def test_system_that_does_not_tell_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_module, "_IP_PKTINFO", None)
    bound, program = Socket(), Program()
    bound.udp.bind("", 0)
    address: Any = bound.udp.address
    program.send(b"question", (HOST, address.port))
    await until(lambda: bound.received)
    assert bound.received == [(b"question", program.address)]
    bound.udp.send(b"answer", program.address)
    assert (await program.gets())[0] == b"answer"
    bound.udp.close()
    program.close()
