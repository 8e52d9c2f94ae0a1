"""Our end and other WebRTC stacks over a path that loses every twentieth packet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import deferLater

from tests.peers.engines import sent
from tests.peers.lossy_path import LossyPath
from tests.peers.meeting import Meet, ends, engine, meet
from tests.reverse.net import reactor, until
from tests.rtc.aiortc.peer_connection_parts import Ends

__all__ = ["ends", "engine", "meet"]

pytestmark = pytest.mark.process

SIZES = [100, 1200, 16_384, 40_000]
"""Bytes of messages, which are sent again and again."""
DROP_MESSAGES = ("aiortc", "werift")
"""If its TSN is not the next after that of the message before, they pass a message on only when another one comes. What
waits like that at a FORWARD TSN is dropped."""


@pytest.fixture
def path(ends: Ends) -> Iterator[LossyPath]:
    path = LossyPath()
    yield path
    pytest_twisted.blockon(maybeDeferred(path.close))


@pytest.mark.parametrize("we_offer", [True, False], ids=["we-offer", "we-answer"])
@pytest_twisted.ensureDeferred
async def test_streams_lose_nothing(meet: Meet, path: LossyPath, we_offer: bool) -> None:
    match = await meet(we_offer=we_offer, change=path.change)
    user = await match.open("bulk")
    path.loss = 0.05
    sending = match.engine("send", label="bulk", sizes=SIZES, times=10, text=False)
    digest = await match.send(user, SIZES, 10)
    assert await sending == 40
    report = await match.engine("received", label="bulk", count=40)
    assert (report["count"], report["sha256"]) == (40, digest)
    await until(lambda: user.count == 40 or match.end.lost)
    assert user.digest.hexdigest() == sent(SIZES, 10)
    assert path.lost > 10


@pytest_twisted.ensureDeferred
async def test_datagrams_are_lost_and_a_stream_beside_them_is_not(meet: Meet, path: LossyPath) -> None:
    match = await meet(we_offer=True, change=path.change)
    datagrams = await match.open("echo datagrams", reliable=False)
    stream = await match.open("echo stream")
    path.loss = 0.05
    count = 200
    for number in range(count):
        datagrams.channel.send(number.to_bytes(4, "big") + bytes(500))
        if match.engine.name not in DROP_MESSAGES:
            await match.send(stream, [1000])
            await until(lambda: stream.count > number - 20 or match.end.lost)  # noqa: B023
        else:
            await deferLater(reactor, 0.002)
    path.loss = 0.0
    await match.send(stream, [100])
    expected = 1 if match.engine.name in DROP_MESSAGES else count + 1
    await until(lambda: stream.count == expected or match.end.lost)
    assert not match.end.lost
    assert count // 2 < datagrams.count <= count
    assert len(set(datagrams.numbers)) == datagrams.count
