"""A hundred megabytes each way between our end and other WebRTC stacks."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.peers.engines import sent
from tests.peers.meeting import Meet, ends, engine, meet
from tests.reverse.net import until

__all__ = ["ends", "engine", "meet"]

pytestmark = pytest.mark.process

SIZE, TIMES = 16_384, 6104
"""100 MB."""


@pytest.mark.parametrize("we_send", [True, False], ids=["we-send", "they-send"])
@pytest_twisted.ensureDeferred
async def test_a_hundred_megabytes(meet: Meet, we_send: bool) -> None:
    match = await meet(we_offer=True)
    user = await match.open("bulk")
    if we_send:
        digest = await match.send(user, [SIZE], TIMES)
        report = await match.engine("received", label="bulk", count=TIMES)
        assert (report["bytes"], report["sha256"]) == (SIZE * TIMES, digest)
    else:
        sending = match.engine("send", label="bulk", sizes=[SIZE], times=TIMES, text=False)
        await until(lambda: user.count == TIMES or match.end.lost)
        assert await sending == TIMES
        assert user.digest.hexdigest() == sent([SIZE], TIMES)
