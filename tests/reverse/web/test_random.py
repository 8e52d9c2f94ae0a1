"""Whatever bytes come, nothing is raised and nothing is left behind."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from tests.examples import examples
from tests.no_collector import Left, no_collector
from tests.reverse.web.parts import GET, OK, World, answer, get
from tests.wire.web import test_requests
from tests.wire.web.parts import cut
from tests.wire.web.test_smuggling import spiced, spiced_answers

STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=12)


@settings(max_examples=examples(400))
@given(st.lists(spiced() | st.sampled_from(test_requests.GOOD), min_size=1, max_size=3), st.data())
def test_any_bytes(data: list[bytes], draw: st.DataObject) -> None:
    """Visitors and services say whatever they like, end, reset and rest; then all are gone, and so is all they had."""
    web = World()
    web.serve("a", connections=2)
    visitors = [web.visit() for _ in data]
    todo = [cut(each, draw.draw(st.lists(st.integers(1, 300), max_size=5))) for each in data]
    for kind, number in draw.draw(STEPS):
        visitor, pieces = visitors[number % len(visitors)], todo[number % len(visitors)]
        services = web.service.connections
        service = services[number % len(services)] if services else None
        if kind <= 3 and pieces:
            visitor.send(pieces.pop(0))
        elif kind <= 5 and service is not None:
            service.send(*cut(draw.draw(spiced_answers()), [number * 9]))
        elif kind == 6 and service is not None:
            (service.end if number % 2 else service.leave)()
        elif kind == 7:
            (visitor.end if number % 2 else visitor.leave)()
        elif kind == 8:
            web.pass_time(number * 7)
        else:
            visitor.takes = not visitor.takes
    for service in web.service.connections:
        service.end()
    for visitor in visitors:
        visitor.take_all()
        visitor.end()
    web.pass_time(200)
    for visitor in visitors:
        visitor.leave()
    for service in web.service.connections:
        service.leave()
    assert not web.connections
    assert all(len(each.upstreams) == 0 for each in web.services.values())


def test_no_circles() -> None:
    """What is over goes at once, and does not wait for the garbage collector."""
    with no_collector():
        web = World()
        visitor = web.visit(GET + get("/", "Content-Length: 3", method="POST") + b"abc")
        [service] = web.service.connections
        service.send(OK)
        service.send(answer(b"x" * 1000))
        changed = web.visit(get("/", "Connection: Upgrade", "Upgrade: x"))
        web.service.connections[-1].send(b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nraw")
        broken = web.visit(GET)
        web.service.connections[-1].leave()
        left = Left(web.connections)
        changed.leave()
        broken.leave()
        visitor.end()
        assert not web.connections
        for each in (*web.service.connections, visitor, changed, broken):
            each.stream.user = None
            each.stream.other.user = None
        assert left() == []
