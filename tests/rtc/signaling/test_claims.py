"""IDs in a cluster: one holder among all nodes."""

from __future__ import annotations

import pytest

from rtunnel.cluster.interface import LEASE
from rtunnel.cluster.memory import MemoryDirectory
from rtunnel.rtc.signaling.claims import ASKS, PATIENCE, PROBE
from rtunnel.rtc.signaling.party import POLICY_VIOLATION, TRY_AGAIN_LATER, Party, State
from tests.rtc.signaling.cluster_parts import Cluster, SlowDirectory, said, state
from tests.rtc.signaling.switchboard_parts import SDP

both = pytest.mark.parametrize("build", [MemoryDirectory, SlowDirectory])


@both
def test_the_holder_is_alive(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build)
    holder, claimant = one.host(), two.enter("host")
    cluster.turn()
    assert state(claimant) is State.WAITING
    assert holder.asked == 1
    one.probe_answered(holder.party)
    cluster.turn()
    assert claimant.take_error(about="host") == "the ID 'host' is in use"
    assert claimant.close_code == POLICY_VIOLATION
    assert state(holder) is State.REGISTERED
    assert cluster.is_at_rest()


@both
def test_the_holder_does_not_answer(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build)
    holder, claimant = one.host(), two.enter("host")
    claimant.say("offer", target="other", payload=SDP)
    cluster.turn()
    holder.leave()
    cluster.turn()
    assert state(claimant) is State.REGISTERED
    assert claimant.admissions == 1
    assert said(claimant) == ["there is no 'other'"]
    assert one.hosts == 0
    assert two.hosts == 1
    assert cluster.is_at_rest()


@both
def test_the_same_end_comes_to_another_node(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build)
    holder = one.host(key="secret")
    again = two.enter("host", key="secret")
    cluster.turn()
    assert state(again) is State.REGISTERED
    assert state(holder) is State.GONE
    assert holder.close_code == POLICY_VIOLATION
    assert one.hosts == 0
    client = one.client()
    cluster.turn()
    assert said(again) == ["offer"]
    assert not said(client)
    assert cluster.is_at_rest()


def test_another_key_is_another_end() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    holder, claimant = one.host(key="secret"), two.enter("host", key="secret?")
    cluster.turn()
    one.probe_answered(holder.party)
    cluster.turn()
    assert state(claimant) is State.GONE
    assert state(holder) is State.REGISTERED


@both
def test_the_same_end_comes_again_here(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build)
    first = one.host(key="secret")
    second = one.enter("host", key="secret")
    # At once, as without a cluster.
    assert state(second) is State.REGISTERED
    assert first.close_code == POLICY_VIOLATION
    cluster.turn()
    claimant = two.enter("host", key="other")
    cluster.turn()
    assert second.asked == 1
    second.leave()
    cluster.turn()
    assert state(claimant) is State.REGISTERED


def test_the_same_end_comes_again_while_it_waits() -> None:
    cluster = Cluster()
    one, two = cluster.two(SlowDirectory)
    first = one.enter("host", key="secret")
    second = one.enter("host", key="secret")
    stranger = one.enter("host", key="other")
    assert first.close_code == stranger.close_code == POLICY_VIOLATION
    cluster.turn()
    assert state(second) is State.REGISTERED
    claimant = two.enter("host")
    cluster.turn()
    assert state(claimant) is State.WAITING
    second.leave()
    cluster.turn()
    assert state(claimant) is State.REGISTERED
    assert cluster.is_at_rest()


@both
def test_who_leaves_while_it_waits_holds_nothing(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build)
    one.enter("host").leave()
    cluster.turn()
    holder = two.host()
    claimant = one.enter("host")
    cluster.turn()
    claimant.leave()
    cluster.turn()
    two.probe_answered(holder.party)
    cluster.turn()
    assert not one.directory._claims
    assert cluster.is_at_rest()


def test_a_node_that_dies_frees_its_ids() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    one.host("keyed", key="secret")
    one.host("keyless")
    cluster.die(one)
    keyed, keyless = two.enter("keyed", key="secret"), two.enter("keyless")
    cluster.turn()
    # The same end has its ID at once, another one when the lease has ended.
    assert state(keyed) is State.REGISTERED
    assert state(keyless) is State.WAITING
    cluster.wait(LEASE + 0.5)
    assert state(keyless) is State.REGISTERED
    assert cluster.is_at_rest()


def test_a_node_that_does_not_listen_is_not_asked_for_ever() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    one.host()
    one.directory._listeners.clear()
    claimant = two.enter("host")
    cluster.wait(PATIENCE + 1)
    assert claimant.take_error(about="host") == "the ID 'host' is in use"


def test_the_directory_is_away() -> None:
    cluster = Cluster()
    one, _ = cluster.two()
    before = one.host(key="secret")
    cluster.part(one)
    after = one.enter("another")
    assert after.take_error(about="another") == "the cluster's directory is away: it is parted from the others"
    assert after.close_code == TRY_AGAIN_LATER
    assert state(before) is State.REGISTERED
    # Who was there before may even come again.
    assert one.enter("host", key="secret").party.state is State.REGISTERED


def test_a_claim_is_lost() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    holder = one.host()
    cluster.part(one)
    cluster.wait(LEASE + 1)
    taker = two.host()
    assert state(holder) is State.REGISTERED
    cluster.join(one)
    cluster.wait(2)
    assert state(holder) is State.GONE
    assert holder.close_code == TRY_AGAIN_LATER
    assert "somebody else's now" in holder.take_error(about="host")
    assert state(taker) is State.REGISTERED


def test_the_limits_of_a_node_stay() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    one.max_hosts = 1
    one.host("first")
    assert one.enter("second").close_code == TRY_AGAIN_LATER
    assert two.host("second").party.state is State.REGISTERED
    assert len(one.directory._claims) == 1


@both
def test_a_limit_that_is_reached_while_it_waits(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build)
    one.max_hosts = 1
    lines = [one.enter("first"), one.enter("second")]
    cluster.turn()
    assert [state(each) for each in lines] == [State.REGISTERED, State.GONE]
    # It holds nothing.
    assert two.host("second").party.state is State.REGISTERED


@both
def test_connections_of_an_address_count_at_all_nodes(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build, max_per_address=3)
    lines = [node.enter(f"{node.name} {number}") for number in range(2) for node in (one, two)]
    cluster.turn()
    states = [state(each) for each in lines]
    assert states.count(State.REGISTERED) == 3 or build is SlowDirectory
    assert states.count(State.REGISTERED) <= 3
    for each in lines:
        each.leave()
    cluster.turn()
    lines = [one.enter(f"again {number}") for number in range(3)]
    other = two.enter("other", address="192.0.2.2")
    cluster.turn()
    assert [state(each) for each in (*lines, other)] == [State.REGISTERED] * 4
    late = two.enter("late")
    cluster.turn()
    assert late.close_code == TRY_AGAIN_LATER
    assert "too many connections from your address" in late.take_error(about="late")
    assert not two.directory._claims.keys() - {"id other"}


def test_counts_are_right_after_the_directory_was_away() -> None:
    cluster = Cluster()
    one, two = cluster.two(max_per_address=2)
    lines = [one.enter("first"), one.enter("second")]
    cluster.part(one)
    for each in lines:
        each.leave()
    cluster.join(one)
    one.crossing.claims.tick()
    cluster.turn()
    assert two.host("third").party.state is State.REGISTERED
    assert two.host("fourth").party.state is State.REGISTERED


@both
def test_the_directory_goes_away_while_a_node_is_asked(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build)
    holder, claimant = one.host(), two.enter("host")
    cluster.turn()
    cluster.part(two)
    one.probe_answered(holder.party)
    cluster.wait(PROBE + 1)
    assert claimant.close_code == TRY_AGAIN_LATER
    assert cluster.is_at_rest()


def test_a_node_that_always_says_free_is_not_asked_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    one, two = cluster.two()
    one.host()
    asked: list[str] = []

    def probe(claimant: Party) -> None:
        asked.append(claimant.id)
        one.crossing.answer(claimant, is_free=True)

    monkeypatch.setattr(one, "probe", probe)
    claimant = two.enter("host")
    for _ in range(10):
        cluster.turn()
    cluster.wait(PATIENCE)
    assert state(claimant) is State.GONE
    assert len(asked) == ASKS
