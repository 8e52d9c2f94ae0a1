"""How a path is watched: late answers, none at all, and better paths."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from aioice.ice import CandidatePair

from rtunnel.rtc.aiortc import addresses
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.sessions import consent
from rtunnel.rtc.settings import IceSettings
from tests.reverse.net import turns, until
from tests.rtc.aiortc.ice_parts import Agents, agents, run

__all__ = ["agents"]


class User:
    """Writes down what it is told."""

    def __init__(self, agent: IceAgent) -> None:
        self.told: list[str] = []
        agent.user = self

    def path_doubtful(self) -> None:
        self.told.append("doubtful")

    def path_silent(self) -> None:
        self.told.append("silent")

    def path_dead(self) -> None:
        self.told.append("dead")

    def path_moved(self) -> None:
        self.told.append("moved")


@pytest_twisted.ensureDeferred
async def test_a_peer_falls_silent(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "DEAD_AFTER", 3)
    one, two = await agents.pair()
    user = User(one)
    monkeypatch.setattr(two, "request_received", lambda *message: None)
    await until(lambda: one.path_is_silent, "silence")
    assert user.told == ["doubtful", "silent"]
    # With the last answer 0.8 to 1.2 s before the first check that had none.
    assert one._silent < 1.2 + consent.SILENT_AFTER * consent.LATE + 0.1
    await until(lambda: one._closed, "the end")
    assert user.told == ["doubtful", "silent", "dead"]


@pytest_twisted.ensureDeferred
async def test_a_long_way_is_no_silence(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = await agents.pair()
    one.path_round_trip = 1.0
    one._unanswered = 1
    assert one._until_next() == 2.0
    one._unanswered = consent.SILENT_AFTER + 1
    assert 0.8 <= one._until_next() <= 1.2


@pytest_twisted.ensureDeferred
async def test_a_busy_path_is_not_silent(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await agents.pair()
    user = User(one)
    monkeypatch.setattr(two, "request_received", lambda *message: None)
    while one._silent < 3:
        await run(two.send(b"\x17" + bytes(100)))
        await turns(1)
    assert "silent" not in user.told
    await until(lambda: one.path_is_silent, "silence")


@pytest_twisted.ensureDeferred
async def test_a_path_that_works_again(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await agents.pair()
    user = User(one)
    with monkeypatch.context() as silent:
        silent.setattr(two, "request_received", lambda *message: None)
        await until(lambda: one.path_is_silent, "silence")
    await until(lambda: not one.path_is_silent, "an answer")
    assert user.told == ["doubtful", "silent"]
    assert one._silent < consent.DEAD_AFTER


async def two_paths(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> tuple[IceAgent, IceAgent]:
    """Two agents that use one of the paths between them, which is relayed."""
    both = IceSettings(interfaces=("127.0.0.1", "127.0.0.2"))
    monkeypatch.setattr(addresses, "_all_addresses", lambda: iter([("lo", "127.0.0.1"), ("lo", "127.0.0.2")]))
    one, two = await agents.pair(both)
    await until(lambda: two.selected, "a path")
    for agent, other in ((one, two), (two, one)):
        assert agent.selected is not None
        local = agent.selected.local_candidate
        # As if it led through a TURN server.
        monkeypatch.setattr(local, "type", "relay")
        for remote in other._remote_candidates:
            if (remote.host, remote.port) == (local.host, local.port):
                monkeypatch.setattr(remote, "type", "relay")
    return one, two


@pytest_twisted.ensureDeferred
async def test_a_relayed_path_gives_way_to_a_direct_one(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "LOOK_FOR_DIRECT", 0.05)
    one, two = await two_paths(agents, monkeypatch)
    before = one.selected
    users = User(one), User(two)
    for agent in (one, two):
        agent._look_for_direct()
    await until(lambda: all("moved" in user.told for user in users), "a direct path")
    for agent in (one, two):
        assert agent.selected is not None
        assert agent.selected is not before
        assert not consent.is_relayed(agent.selected)
        assert agent.path.startswith("direct, ")
    await until(lambda: one._looking is None and two._looking is None, "the end of the search")
    assert [user.told.count("moved") for user in users] == [1, 1]


@pytest_twisted.ensureDeferred
async def test_only_so_many_pairs_are_checked_in_a_round(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "LOOK_FOR_DIRECT", 0.2)
    monkeypatch.setattr(consent, "MAX_DIRECT", 2)
    one, two = await two_paths(agents, monkeypatch)
    monkeypatch.setattr(two, "request_received", lambda *message: None)
    checked: list[Any] = []

    async def check(pair: CandidatePair) -> None:
        checked.append(pair)

    monkeypatch.setattr(one, "_check_again", check)
    one._look_for_direct()
    await until(lambda: checked, "a round")
    await turns(5)
    assert 0 < len(checked) <= 2
    assert not any(map(consent.is_relayed, checked))


@pytest_twisted.ensureDeferred
async def test_a_path_that_works_is_not_left_for_one_like_it(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await agents.pair()
    user, used = User(one), one.selected
    assert used is not None
    other = CandidatePair(used.protocol, used.remote_candidate)
    one._check_list.append(other)
    assert "USE-CANDIDATE" not in one.build_request(other, nominate=True).attributes
    other.nominated = True
    one.check_state(other, CandidatePair.State.SUCCEEDED)
    one.check_complete(other)
    assert one.selected is used
    assert user.told == []
    assert two.selected is not None
