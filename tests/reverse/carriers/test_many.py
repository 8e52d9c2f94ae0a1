"""Hundreds of data connections at once, each with a visitor: no descriptor is left."""

from __future__ import annotations

import gc

import pytest
import pytest_twisted

from rtunnel.relay.local_socket import LocalSocket
from rtunnel.reverse.carriers.record_socket import RecordSocket
from tests.needs import need_descriptors
from tests.relay.turns import Turns
from tests.reverse.carriers.rig import Pair, Visit

MANY = 300


@pytest.fixture
def collected() -> None:
    """What earlier tests have left is collected before ``turns`` counts the descriptors."""
    gc.collect()


@pytest.mark.usefixtures("collected")
@pytest_twisted.ensureDeferred
async def test_hundreds_of_visitors(turns: Turns) -> None:
    need_descriptors(6 * MANY + 100)
    pairs = [Pair(turns) for _ in range(MANY)]
    visits: list[Visit] = [pair.open("unix") for pair in pairs]
    await turns.until(lambda: all(pair.client.state.number for pair in pairs))
    assert turns.watched() == 4 * MANY
    for number, visit in enumerate(visits):
        visit.left.send(b"%d" % number, end=number % 3 == 0)
        visit.right.send(b"-%d" % number, end=number % 3 != 1)
    everyone = [far for visit in visits for far in visit.fars]
    await turns.until(lambda: all(far.received for far in everyone), *everyone)
    for number, visit in enumerate(visits):
        assert bytes(visit.right.kept) == b"%d" % number
        assert bytes(visit.left.kept) == b"-%d" % number
        if number % 3 == 1:
            visit.near_left.abort()
        elif number % 3 == 2:
            visit.left.reset()
    await turns.until(lambda: all(len(visit.ends) == 2 for visit in visits), *everyone)
    await turns.until(lambda: all(pair.is_free for pair in pairs))
    for pair in pairs:
        with pair:
            pass


@pytest.mark.parametrize("kind", [LocalSocket, RecordSocket])
def test_memory_is_not_wasted(kind: type) -> None:
    """A dictionary would double what each of them costs."""
    assert all("__slots__" in vars(each) for each in kind.__mro__[:-1])
