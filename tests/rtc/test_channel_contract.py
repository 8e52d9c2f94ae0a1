"""A stream over a data channel keeps the promises of all streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.relay.stream_contract import End, StreamContract
from tests.rtc.streams import Pair


class TestChannelStream(StreamContract):
    @pytest.fixture(params=[None, 40_000], ids=["plenty of room", "little room"])
    def setting(self, request: pytest.FixtureRequest) -> Any:
        return Pair(room=request.param)

    async def open_stream(self, setting: Any) -> tuple[End, End]:
        self.pair = setting
        one, two = setting.open()
        return End(one.stream, one), End(two.stream, two)

    async def until(self, condition: Callable[[], object]) -> None:
        self.pair.until(condition)
