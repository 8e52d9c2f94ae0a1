"""Channels that are opened, used and closed by both ends at random, over a path that loses, repeats and reorders."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_twisted

from rtunnel.rtc.channels import data_channels, pump
from rtunnel.rtc.channels.channel import Channel
from rtunnel.rtc.channels.data_channels import DataChannels
from rtunnel.wire.sctp import handshake
from rtunnel.wire.sctp.codec import OUR_EXTENSIONS
from tests.rtc.channels.channels_parts import ChannelTold, Pair, association_of, leaves_nothing
from tests.wire.sctp.by_hand import FEW, PORT


class Handle:
    """A call that is due."""

    def __init__(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.call = call
        self.arguments = arguments
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """An event loop whose time passes at once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: list[tuple[float, int, Handle]] = []
        self._count = 0

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[..., None], *arguments: Any) -> Handle:
        return self.call_at(self.now, call, *arguments)

    def call_at(self, when: float, call: Callable[..., None], *arguments: Any) -> Handle:
        handle = Handle(call, arguments)
        self._count += 1
        heapq.heappush(self._due, (when, self._count, handle))
        return handle

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass. Return whether *until* came true."""
        ends = self.now + seconds
        while not until():
            if not self._due or self._due[0][0] > ends:
                self.now = ends
                return until()
            when, _, handle = heapq.heappop(self._due)
            self.now = max(self.now, when)
            if not handle.is_cancelled:
                handle.call(*handle.arguments)
        return True


@dataclass
class Side:
    """One end of a channel.

    :ivar sent: what was sent on it.
    :ivar closed: whether its user has closed it.
    """

    user: ChannelTold
    channel: Channel
    sent: list[bytes] = field(default_factory=list)
    closed: bool = False


class Play:
    """Two ends and what is done to them."""

    def __init__(self, seed: int, loss: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source = random.Random(seed)
        self.loss = loss
        self.loop = Loop()
        for module in (data_channels, pump):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=self.loop.time))
        self.pair = Pair(max_channels=64)
        self.ends = self.pair.one, self.pair.two
        for end, other, wire in zip(self.ends, self.ends[::-1], self.pair.wires, strict=True):
            end._loop = cast(Any, self.loop)
            wire.send = self._path(other)  # type: ignore[method-assign]
        #: Both sides of each channel, by its label.
        self.channels: dict[str, list[Side]] = {}

    def _path(self, other: DataChannels) -> Callable[..., None]:
        source = self.source

        def send(packets: list[bytes], *, fragments: bool = False) -> None:
            for packet in packets:
                copies = 0 if source.random() < self.loss else 1 + (source.random() < self.loss)
                for _ in range(copies):
                    late = 0.02 + source.expovariate(200 / (1 + 10 * self.loss))
                    self.loop.call_at(self.loop.now + late, other.packets_received, [packet])

        return send

    def connect(self) -> None:
        for end, wire in zip(self.ends, self.pair.wires, strict=True):
            is_first = end is self.pair.one
            end.start(wire, initiates=True, even=is_first, peer_port=PORT, max_message=None)
        assert self.loop.run(100, lambda: all(user.told == ["up"] for user in self.pair.users))

    def open(self) -> None:
        if sum(not side.closed for sides in self.channels.values() for side in sides[:1]) < 10:
            label = f"tcp-{len(self.channels)}"
            end = self.source.choice(self.ends)
            user = ChannelTold()
            channel = end.open_channel(label, "", reliable=self.source.random() < 0.8)
            channel.use(user)
            self.channels[label] = [Side(user, channel)]

    def arrivals(self) -> None:
        for user in self.pair.users:
            for channel, told in zip(user.channels, user.users, strict=True):
                if len(self.channels[channel.label]) == 1:
                    self.channels[channel.label].append(Side(told, channel))

    def act(self) -> None:
        self.arrivals()
        sides = [side for sides in self.channels.values() for side in sides if not side.closed]
        kind = self.source.random()
        if kind < 0.01:
            self.source.choice(self.ends).path_changed()
        elif kind < 0.2 or not sides:
            self.open()
        elif kind < 0.3:
            side = self.source.choice(sides)
            side.closed = True
            side.channel.close()
        else:
            side = self.source.choice(sides)
            if side.channel.is_open:
                number = sum(len(side.sent) for sides in self.channels.values() for side in sides)
                side.sent.append(b"%s %d " % (side.channel.label.encode(), number) * self.source.choice([1, 1, 300]))
                side.channel.send(side.sent[-1])

    def is_over(self) -> bool:
        self.arrivals()
        return not any(end._channels or end._half_reset or end._reset_by_peer for end in self.ends)

    def check(self) -> None:
        assert [user.told for user in self.pair.users] == [["up"]] * 2
        for label, sides in self.channels.items():
            for side, other in zip(sides, sides[::-1], strict=True):
                told = side.user.told
                assert told.count("closed") == 1, label
                assert told[-1] == "closed", label
                got = [item[1] for item in told if isinstance(item, tuple)]
                if len(sides) == 2:
                    if not side.channel.reliable:
                        assert len(got) == len(set(got)), label
                        assert set(got) <= set(other.sent), label
                        continue
                    assert got == other.sent[: len(got)], label
                    # Who has not closed it gets everything.
                    assert side.closed or len(got) == len(other.sent), label


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("loss", [0.0, 0.05, 0.25])
@pytest_twisted.ensureDeferred
async def test_every_channel_ends_once_and_nothing_is_lost(
    loss: float, interleaved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "OUR_EXTENSIONS", OUR_EXTENSIONS if interleaved else FEW)
    for seed in range(20):
        print(f"seed {seed}")
        play = Play(seed, loss, monkeypatch)
        play.connect()
        assert association_of(play.pair.one).interleaved == interleaved
        for _ in range(play.source.randint(50, 400)):
            play.loop.run(play.source.expovariate(50))
            play.act()
        for sides in play.channels.values():
            for side in sides[:1]:
                side.closed = True
                side.channel.close()
        assert play.loop.run(600, play.is_over), "channels are left"
        play.loop.run(60)
        play.check()
        for end in play.ends:
            leaves_nothing(end)
