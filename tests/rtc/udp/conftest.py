"""The fixture of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.leftovers import TestLog

if TYPE_CHECKING:
    from tests.rtc.udp.host_parts import Host


@pytest.fixture
def host(_nothing_left_behind: TestLog) -> Iterator[Host]:
    """A host's flows, and the client's end of them."""
    # It imports the reactor, and pytest reads this file before pytest-twisted installs one.
    from tests.rtc.udp.host_parts import Host

    host = Host(_nothing_left_behind)
    yield host
    host.end()
