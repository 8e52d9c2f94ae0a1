"""One stream after the other on a data connection between real sockets."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from rtunnel.errors import Code
from rtunnel.relay.last_bytes import unacknowledged
from rtunnel.reverse.carriers.record_socket import RecordSocket
from tests.relay.turns import Turns, random_bytes
from tests.reverse.carriers.rig import SIDES, Pair, answer_each_other, far_ends


def both_end(visit: Any) -> None:
    for far in visit.fars:
        far.send(b"bye", end=True)


def left_resets(visit: Any) -> None:
    visit.left.reset()


def right_resets(visit: Any) -> None:
    visit.right.reset()


def both_reset(visit: Any) -> None:
    for far in visit.fars:
        far.reset()


def left_is_aborted(visit: Any) -> None:
    visit.near_left.abort()


def right_is_aborted(visit: Any) -> None:
    visit.near_right.abort()


def both_are_aborted(visit: Any) -> None:
    for near in visit.nears:
        near.abort()


def left_ends_and_is_aborted(visit: Any) -> None:
    visit.left.send(b"bye", end=True)
    visit.left.step()
    visit.near_left.doRead()
    visit.near_left.doRead()
    visit.near_left.abort()


def right_ends_and_both_are_aborted(visit: Any) -> None:
    visit.right.send(b"bye", end=True)
    visit.right.step()
    visit.near_right.doRead()
    visit.near_right.doRead()
    both_are_aborted(visit)


def ended_and_aborted(visit: Any) -> None:
    for far, near in zip(visit.fars, visit.nears, strict=True):
        far.send(b"bye", end=True)
        far.step()
        near.doRead()
        near.doRead()
    both_are_aborted(visit)


#: What may happen before the client has got the opening, and later.
EARLY_ENDS = [both_end, left_resets, right_resets, both_reset, left_is_aborted, left_ends_and_is_aborted]
ENDS = [
    *EARLY_ENDS,
    right_is_aborted,
    both_are_aborted,
    right_ends_and_both_are_aborted,
    ended_and_aborted,
]


@pytest.mark.parametrize("moment", ["opening", "open", "talking"])
@pytest_twisted.ensureDeferred
async def test_next_stream_after_every_kind_of_end(turns: Turns, moment: str) -> None:
    with Pair(turns) as pair:
        for end in EARLY_ENDS if moment == "opening" else ENDS:
            visit = pair.open()
            if moment != "opening":
                await pair.until(lambda: pair.client.state.number == len(pair.visits))
            if moment == "talking":
                for far in visit.fars:
                    far.send(random_bytes(100_000))
                await pair.until(lambda: all(far.received == 100_000 for far in visit.fars), *visit.fars)  # noqa: B023
            end(visit)
            await pair.until(lambda: pair.is_free, *visit.fars)
            assert not {"lost", "breach"} & {what for _, what in pair.told}, end
            visit = pair.open()
            await answer_each_other(pair, visit.left, visit.right, 200_000)
            await pair.until(lambda: pair.is_free, *visit.fars)
        assert pair.told.count(("client", "freed")) == len(pair.visits)


@SIDES
@pytest_twisted.ensureDeferred
async def test_next_stream_while_the_last_ones_socket_is_full(turns: Turns, side: str) -> None:
    """What a slow reader has to take stays with its socket."""
    with Pair(turns) as pair:
        data = [random_bytes(25_000, seed) for seed in range(5)]
        end, sender = (pair.server, pair.client) if side == "left" else (pair.client, pair.server)
        for each in data:
            visit = pair.open("unix", 4096)
            slow, other = far_ends(visit, side)
            await pair.until(lambda: pair.client.state.number == len(pair.visits))
            slow.reads = 0
            slow.send(b"request", end=True)
            await pair.until(lambda: other.ended, *visit.fars)  # noqa: B023
            # The end must come in the same read as the last bytes; otherwise it is read when those are gone.
            end.stop_reading()
            other.send(each, end=True)
            source = visit.near_right if side == "left" else visit.near_left
            await pair.until(lambda: source._ended, *visit.fars)  # noqa: B023
            await pair.until(lambda: not (sender.waiting or unacknowledged(sender.socket)), *visit.fars)
            end.resume_reading()
            await pair.until(lambda: pair.is_free, *visit.fars)
            near = visit.near_left if side == "left" else visit.near_right
            assert near.waiting
            assert near.held > near.waiting
        quick = pair.open()
        await answer_each_other(pair, quick.left, quick.right, 3_000_000)
        for visit, each in zip(pair.visits, data, strict=False):
            slow, _ = far_ends(visit, side)
            slow.reads = 1 << 16
            await pair.until(lambda: slow.is_over, slow)  # noqa: B023
            assert slow.got(each)
            assert slow.ended


@pytest_twisted.ensureDeferred
async def test_next_stream_is_opened_where_the_last_one_ends(turns: Turns) -> None:
    """The server opens it inside the loop that reads records."""
    with Pair(turns) as pair:
        data = random_bytes(30_000)

        def again(end: RecordSocket) -> None:
            if end is pair.server and len(pair.visits) < 30:
                visit = pair.open("unix")
                visit.left.send(data, end=True)
                visit.right.send(data, end=True)

        pair.on_freed = again
        again(pair.server)

        def is_over() -> bool:
            for far in pair.visits[-1].fars:
                far.step()
            return len(pair.visits) == 30 and pair.is_free

        await pair.until(is_over)


@pytest.mark.parametrize("code", [Code.UNKNOWN_TUNNEL, Code.CONNECTION_LOST])
@pytest_twisted.ensureDeferred
async def test_client_refuses_at_once(turns: Turns, code: str) -> None:
    with Pair(turns) as pair:
        pair.on_opened = lambda _opened: pair.client.reset(code, "no")
        visit = pair.open()
        visit.left.send(random_bytes(100_000), end=True)
        await pair.until(lambda: pair.is_free and visit.left.is_over, visit.left)
        assert visit.left.error is not None
        pair.on_opened = pair.serve
        visit = pair.open()
        await answer_each_other(pair, visit.left, visit.right, 1000)
