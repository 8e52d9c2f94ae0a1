"""Who gives way when a flow needs a place."""

from __future__ import annotations

from twisted.internet.task import Clock

from rtunnel.relay.udp.flows import Flow
from rtunnel.reverse.datagrams.shared_table import SharedFlowTable
from tests.scaling import assert_grows_with


class Some:
    """A table, and flows in it."""

    def __init__(self, max_flows: int = 100) -> None:
        self.clock = Clock()
        self.table = SharedFlowTable(self.clock, max_flows, None)
        self._port = 0

    def flow(self, host: str, exchanges: int = 0) -> Flow:
        self._port += 1
        flow = Flow(self.table, f"{host}:{self._port}", lambda why: None)
        self.table.add(flow)
        self.clock.advance(0.001)
        for _ in range(exchanges):
            self.table.use(flow, answer=False)
            self.table.use(flow, answer=True)
        return flow

    def end(self) -> None:
        for flow in self.table:
            flow.end("over")
        assert self.clock.getDelayedCalls() == []


def test_made_up_addresses_cost_nobody_who_gets_answers_a_place() -> None:
    some = Some()
    proved = [some.flow(f"10.0.0.{number}", exchanges=2) for number in range(60)]
    for number in range(1000):
        some.flow(f"10.1.{number % 250}.{number // 250}", exchanges=number % 2)
    assert [flow.ended for flow in proved] == [""] * 60
    assert len(some.table) == 100
    some.end()


def test_a_crowd_of_those_who_get_answers_leaves_newcomers_some_places() -> None:
    some = Some()
    for number in range(100):
        some.flow(f"10.0.0.{number}", exchanges=2)
    new = [some.flow(f"10.1.0.{number}") for number in range(25)]
    assert [flow.ended for flow in new] == [""] * 25
    some.end()


def test_an_address_that_has_most_gives_way() -> None:
    some = Some()
    others = [some.flow(f"10.0.0.{number}") for number in range(10)]
    crowd = [some.flow("10.1.0.1") for _ in range(1000)]
    assert [flow.ended for flow in others] == [""] * 10
    assert sum(not flow.ended for flow in crowd) == 90
    some.end()


def test_among_addresses_that_have_as_many_one_in_use_stays() -> None:
    """Whoever came first is not the first to go."""
    some = Some()
    first = some.flow("10.0.0.1")
    for number in range(1000):
        some.flow(f"10.1.{number % 250}.{number // 250}")
        some.table.use(first, answer=False)
    assert first.ended == ""
    some.end()


def test_each_flow_that_makes_room_costs_the_same() -> None:
    def make_room(count: int) -> None:
        some = Some(count)
        for number in range(2 * count):
            some.flow(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        some.end()

    assert_grows_with(lambda count: count, make_room, 250)
