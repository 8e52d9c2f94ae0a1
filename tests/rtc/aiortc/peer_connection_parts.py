"""Peer connections over loopback, which leave nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from rtunnel.rtc.aiortc.peer_connection import PeerConnection
from rtunnel.rtc.settings import IceSettings
from rtunnel.wire.webrtc.signaling import Candidate
from tests.leftovers import TestLog
from tests.patience import PATIENCE
from tests.reverse.net import HOST, reactor, turns, until
from tests.rtc.aiortc.ice_parts import open_sockets
from tests.rtc.fakes import FakePeer, log_limiter

LOOPBACK = IceSettings(interfaces=(HOST,))


class End:
    """One connection and what it told its user."""

    def __init__(self, settings: IceSettings = LOOPBACK) -> None:
        self.peer = FakePeer()
        self.connection = PeerConnection(settings, self.peer, 50, log_limiter())

    @property
    def told(self) -> list[Any]:
        return [line for line in self.peer.told if line[0] != "candidate"]

    @property
    def candidates(self) -> list[Candidate]:
        return [line[1] for line in self.peer.told if line[0] == "candidate"]  # type: ignore[misc]

    @property
    def lost(self) -> str:
        return next((str(line[1]) for line in self.peer.told if line[0] == "lost"), "")

    async def description(self) -> str:
        await until(lambda: self.told, "a description")
        kind, sdp = self.told[0]
        assert kind in ("offer", "answer"), self.told
        return str(sdp)

    async def ends(self, timeout: float = PATIENCE) -> str:
        await until(lambda: self.lost, "the end", timeout)
        return self.lost


class Ends:
    """Connections that end with the test, and leave nothing."""

    def __init__(self) -> None:
        self.all: list[End] = []

    def make(self, settings: IceSettings = LOOPBACK) -> End:
        self.all.append(End(settings))
        return self.all[-1]

    async def pair(self) -> tuple[End, End]:
        one, two = self.make(), self.make()
        one.connection.offer()
        two.connection.take_offer(await one.description())
        one.connection.take_answer(await two.description())
        await self.connected(one, two)
        return one, two

    @staticmethod
    async def connected(*ends: End) -> None:
        await until(lambda: all(("connected",) in end.told or end.lost for end in ends), "connections")
        assert not any(end.lost for end in ends), [end.lost for end in ends]

    async def end(self) -> None:
        for end in self.all:
            await end.connection.close()
        await turns(3)


@pytest.fixture
def ends(_nothing_left_behind: TestLog) -> Iterator[Ends]:
    before = open_sockets(), handles()
    made = Ends()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.end()))
    assert open_sockets() <= before[0], "sockets are left"
    left = [repr(task) for task in asyncio.all_tasks(reactor._asyncioEventloop) if "wait_for_pid" not in repr(task)]
    assert not left
    assert handles() <= before[1], "timers are left"
    for end in made.all:
        assert sum(line[0] == "lost" for line in end.peer.told) <= 1


def handles() -> set[str]:
    """Timers of asyncio that are ours or the libraries'."""
    scheduled = [handle for handle in reactor._asyncioEventloop._scheduled if not handle.cancelled()]
    return {text for text in map(repr, scheduled) if re.search("aiortc|aioice|rtunnel", text)}
