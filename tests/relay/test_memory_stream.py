"""The stream in memory keeps the contract of real carriers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rtunnel.testing import memory_streams
from tests.relay.fakes import Recorder
from tests.relay.stream_contract import End, StreamContract


class TestMemoryStream(StreamContract):
    @pytest.fixture
    def setting(self) -> None:
        """Do nothing: bytes arrive at once."""

    async def open_stream(self, setting: Any) -> tuple[End, End]:
        ends = []
        for stream in memory_streams(65536):
            user = Recorder()
            stream.user = user
            ends.append(End(stream, user))
        return ends[0], ends[1]

    async def until(self, condition: Callable[[], object]) -> None:
        assert condition(), "it hands over at once"


def test_what_is_written_when_there_is_room_again_arrives() -> None:
    """The other end takes all at once, so nothing it does later would move it."""

    class Writer(Recorder):
        def resume(self) -> None:
            one.write(b"the rest")

    one, two = memory_streams(65536)
    one.user, taker = Writer(), Recorder()
    two.user = taker
    for _ in range(4):
        one.write(bytes(65536))
    taker.delivers = two
    two.delivered(65536)
    assert sum(map(len, taker.chunks)) == 4 * 65536 + len(b"the rest")
