"""The relay between two sockets, over real ones and on both reactors: bytes, back-pressure, ends and resets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from tests.relay.direct_rig import Rig, Turns, no_descriptor_left, random_bytes

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
BOTH = pytest.mark.parametrize("left_first", [True, False])


@pytest.fixture(params=["running", "epoll"])
def turns(request: pytest.FixtureRequest) -> Iterator[Turns]:
    turns = Turns(request.param)
    # The running reactor opens descriptors of its own when it is first used.
    pytest_twisted.blockon(ensureDeferred(turns.turn()))
    with no_descriptor_left(turns):
        yield turns
    turns.close()


@KINDS
@pytest.mark.parametrize("size", [0, 1, 5000, 3_000_000])
@pytest_twisted.ensureDeferred
async def test_bytes_and_ends_both_ways(turns: Turns, kind: str, size: int) -> None:
    with Rig(turns, kind) as rig:
        there, back = random_bytes(size, 1), random_bytes(size, 2)
        rig.left.send(there, end=True)
        rig.right.send(back, end=True)
        await rig.until_over()
        assert rig.right.got(there)
        assert rig.left.got(back)
        assert rig.left.ended
        assert rig.right.ended
