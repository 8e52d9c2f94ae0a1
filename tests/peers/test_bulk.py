"""A hundred megabytes each way between our end and other WebRTC stacks, in ``make stress``; otherwise a part of it."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.examples import examples
from tests.peers.engines import sent
from tests.peers.meeting import Meet, ends, engine, meet
from tests.reverse.net import until

__all__ = ["ends", "engine", "meet"]

pytestmark = pytest.mark.process

SIZE = 16_384
"""Bytes of a message."""


@pytest.mark.parametrize("we_send", [True, False], ids=["we-send", "they-send"])
@pytest_twisted.ensureDeferred
async def test_a_hundred_megabytes(meet: Meet, we_send: bool) -> None:
    times = examples(6104)
    match = await meet(we_offer=True)
    user = await match.open("bulk")
    if we_send:
        digest = await match.send(user, [SIZE], times)
        report = await match.engine("received", label="bulk", count=times)
        assert (report["bytes"], report["sha256"]) == (SIZE * times, digest)
    else:
        sending = match.engine("send", label="bulk", sizes=[SIZE], times=times, text=False)
        await until(lambda: user.count == times or match.end.lost)
        assert await sending == times
        assert user.digest.hexdigest() == sent([SIZE], times)
