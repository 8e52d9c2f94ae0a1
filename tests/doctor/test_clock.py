"""What the doctor says of two clocks."""

from __future__ import annotations

import pytest

from rtunnel.doctor.clock import compare
from rtunnel.doctor.steps import Status

NOW = 1796000000.0


@pytest.mark.parametrize(
    ("theirs", "trip", "status", "text"),
    [
        (NOW, 0.0, Status.OK, "the clocks agree within 0.1 s"),
        (NOW + 0.2, 0.4, Status.OK, "the clocks agree within 0.2 s"),
        (NOW - 0.5, 0.0, Status.OK, "the clocks agree within 0.5 s"),
        (NOW + 2.0, 3.0, Status.OK, "the clocks agree as far as can be told: the answer took 3.0 s"),
        (NOW + 7.04, 0.0, Status.OK, "this machine's clock is 7.0 s behind the server's"),
        (NOW - 60, 0.0, Status.OK, "this machine's clock is 60 s ahead of the server's"),
        (NOW + 312, 0.02, Status.WARN, "this machine's clock is 312 s behind the server's"),
        (NOW - 86400, 0.02, Status.WARN, "this machine's clock is 86400 s ahead of the server's"),
        # Set back in the meantime.
        (NOW, -10.0, Status.OK, "this machine's clock is 5.0 s behind the server's"),
    ],
)
def test_clocks(theirs: float, trip: float, status: Status, text: str) -> None:
    found = compare(theirs, NOW, NOW + trip)
    assert (found.status, found.text) == (status, text)
    assert ("timedatectl" in found.advice) == (status is Status.WARN)
