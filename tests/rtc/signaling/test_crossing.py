"""Messages between parties at different nodes of a cluster."""

from __future__ import annotations

import pytest

from rtunnel.cluster.interface import LEASE
from rtunnel.cluster.memory import MemoryDirectory
from rtunnel.rtc.signaling import remotes
from rtunnel.rtc.signaling.crossing import MAX_UNSENT
from rtunnel.rtc.signaling.limits import MISSES_BURST
from rtunnel.rtc.signaling.party import Line, State
from rtunnel.rtc.signaling.switchboard import MAX_UNANSWERED
from tests.rtc.signaling.cluster_parts import Cluster, SlowDirectory, said
from tests.rtc.signaling.switchboard_parts import SDP

both = pytest.mark.parametrize("build", [MemoryDirectory, SlowDirectory])


@both
def test_an_offer_and_its_answer_cross(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build)
    host, client = one.host(), two.client()
    cluster.turn()
    assert host.take() == {"type": "offer", "payload": SDP, "target_id": "host", "sender_id": "client"}
    host.say("answer", target="client", payload=SDP)
    host.say("candidate", target="client", payload={"candidate": 1})
    client.say("candidate", target="host", payload={"candidate": 2})
    cluster.turn()
    assert client.take() == {"type": "answer", "payload": SDP, "target_id": "client", "sender_id": "host"}
    assert client.take()["payload"] == {"candidate": 1}
    assert host.take()["payload"] == {"candidate": 2}
    assert not host.sent + client.sent
    assert cluster.is_at_rest()


@both
def test_order_is_kept(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build)
    host = one.host()
    client = two.host("client")
    client.say("offer", "client", "host", 0)
    for number in range(1, 60):
        client.say("candidate", "client", "host", number)
        cluster.clock.advance(0.001)
    client.leave()
    for _ in range(5):
        cluster.turn()
    assert [each["payload"] for each in host.sent] == [*range(60), "'client' is gone, and its offer with it"]
    assert cluster.is_at_rest()


def test_an_answer_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    one, two = cluster.two()
    host, client = one.host(), two.client()
    cluster.turn()
    asked: list[str] = []

    async def find(key: str) -> tuple[str, ...]:
        asked.append(key)
        return ()

    for node in (one, two):
        monkeypatch.setattr(node.directory, "find", find)
    host.say("answer", target="client", payload=SDP)
    client.say("candidate", target="host", payload={})
    cluster.turn()
    assert not asked
    assert said(client) == ["answer"]
    assert said(host) == ["offer", "candidate"]


@both
def test_there_is_nobody(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    _, two = cluster.two(build)
    client = two.client(target="nobody")
    cluster.turn()
    assert client.take_error(about="nobody") == "there is no 'nobody'"
    assert cluster.is_at_rest()


def test_errors_come_back() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    host = one.host()
    host.is_slow = True
    client = two.client()
    cluster.turn()
    assert client.take_error(about="host") == "'host' reads too slowly"
    host.is_slow, host.has_room = False, False
    client.say("offer", target="host", payload=SDP)
    cluster.turn()
    assert client.take_error(about="host") == "'host' gets too many offers"
    assert not host.sent


def test_offers_count_by_the_address_of_who_makes_them() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    host = one.host()
    keys = []

    def takes_offer_of(sender: Line) -> bool:
        keys.append(sender.budget_key)
        return True

    host.takes_offer_of = takes_offer_of  # type: ignore[method-assign]
    client = two.client()
    client.budget_key = "2001:db8::/64"
    client.say("offer", target="host", payload=SDP)
    cluster.turn()
    client.budget_key = object()  # type: ignore[assignment]
    client.say("offer", target="host", payload=SDP)
    cluster.turn()
    assert keys == ["192.0.2.1", "2001:db8::/64", "ID client"]


def test_tries_of_invitations_count_at_all_nodes() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    third = cluster.node()
    client = one.client(target="rtunnel-invite-7")
    cluster.turn()
    assert one.tries == two.tries == third.tries == ["192.0.2.1"]
    assert client.take_error(about="rtunnel-invite-7") == "there is no 'rtunnel-invite-7'"


@both
def test_one_end_goes(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build)
    host, client = one.host(), two.client()
    cluster.turn()
    client.leave()
    cluster.turn()
    assert said(host) == ["offer", "'client' is gone, and its offer with it"]
    client = two.client("another")
    cluster.turn()
    host.leave()
    cluster.turn()
    assert said(client) == ["'host' is gone"]
    client.say("offer", target="host", payload=SDP)
    cluster.turn()
    assert said(client) == ["there is no 'host'"]


def test_an_end_that_goes_late_is_told_too() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    host, client = one.host(), two.client()
    cluster.wait(2 * remotes.GOOD_FOR)
    client.leave()
    cluster.turn()
    assert said(host) == ["offer", "'client' is gone, and its offer with it"]
    assert not len(one.crossing.remotes)


def test_after_the_answer_nobody_is_told() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    host, client = one.host(), two.client()
    host.say("answer", target="client", payload=SDP)
    cluster.turn()
    client.leave()
    host.leave()
    cluster.turn()
    assert said(host) == ["offer"]
    assert said(client) == ["answer"]


def test_a_node_dies() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    host = one.host()
    client, other = two.client(), one.client("other")
    cluster.turn()
    cluster.die(one)
    client.say("candidate", target="host", payload={})
    cluster.turn()
    assert said(client) == ["there is no 'host'"]
    client.say("offer", target="host", payload=SDP)
    cluster.wait(LEASE + 2)
    assert said(client)[-1] in ("'host' is gone", "there is no 'host'")
    assert said(other) == []
    assert host.party.state is State.REGISTERED  # at a node that knows nothing of it
    # Within the lease its ID is free.
    assert two.host("host").party.state is State.REGISTERED


def test_a_node_dies_while_an_offer_is_there() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    one.host()
    client = two.client()
    cluster.die(one)
    cluster.wait(LEASE + 2)
    assert said(client) == ["'host' is gone"]
    assert not len(two.crossing.remotes)


def test_parted_from_the_others() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    host, client, near = one.host(), two.client(), two.host("near")
    cluster.part(two)
    said(host)
    client.say("offer", target="host", payload=SDP)
    client.say("offer", target="near", payload=SDP)
    cluster.turn()
    (error,) = said(client)
    assert error == "'host' is not at this server, and the cluster's directory is away: it is parted from the others"
    assert said(near) == ["offer"]
    cluster.join(two)
    cluster.wait(2)
    client.say("offer", target="host", payload=SDP)
    cluster.turn()
    assert said(host)[-1] == "offer"


def test_unanswered_offers_are_bounded_at_both_nodes() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    for number in range(MAX_UNANSWERED + 5):
        one.host(f"host {number}")
    client = two.client(target="host 0")
    for number in range(MAX_UNANSWERED + 5):
        client.say("offer", target=f"host {number}", payload=SDP)
        cluster.turn()
    assert len(client.party.offers_to) == MAX_UNANSWERED
    known = one.crossing.remotes.get("client")
    assert known is not None
    assert len(known.party.offers_to) == MAX_UNANSWERED


def test_those_who_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "MOST_REMOTES", 3)
    cluster = Cluster()
    one, two = cluster.two()
    host = one.host()
    clients = [two.client(f"client {number}") for number in range(5)]
    cluster.turn()
    assert len(one.crossing.remotes) == 3
    assert len(host.party.offers_from) == 3
    host.say("answer", target="client 0", payload=SDP)
    cluster.turn()
    assert said(clients[0]) == ["answer"]


def test_what_waits_for_another_node_is_bounded() -> None:
    cluster = Cluster()
    one, two = cluster.two(SlowDirectory)
    host, client = one.host(), two.client()
    cluster.turn()
    said(host)
    for _ in range(20):
        client.say("candidate", target="host", payload="x" * 60_000)
    assert sum(two.crossing._unsent.values()) <= MAX_UNSENT
    cluster.wait(2)
    passed = len(said(host))
    refused = said(client)
    assert passed == MAX_UNSENT // 60_600
    assert refused == ["'host' is at another server, which takes messages too slowly"] * (20 - passed)
    assert cluster.is_at_rest()


def test_who_comes_here_is_no_longer_there() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    host, client = one.host(), two.enter("client", key="secret")
    client.say("offer", target="host", payload=SDP)
    cluster.turn()
    again = one.enter("client", key="secret")
    cluster.turn()
    assert again.party.state is State.REGISTERED
    assert client.close_code
    assert said(host) == ["offer", "'client' is gone, and its offer with it"]
    again.say("offer", target="host", payload=SDP)
    assert said(host) == ["offer"]


@both
def test_an_end_that_comes_again_does_not_overtake_itself(build: type[MemoryDirectory]) -> None:
    cluster = Cluster()
    one, two = cluster.two(build)
    host, client = one.host(), two.enter("client", key="secret")
    cluster.turn()
    for number in range(5):
        client.say("offer", target="host", payload=number)
    cluster.clock.advance(0.025)
    cluster.clock.advance(0.025)
    again = two.enter("client", key="secret")
    again.say("offer", target="host", payload="again")
    for _ in range(3):
        cluster.turn()
    # The last thing that the host hears is an offer that is there.
    assert host.sent[-1]["payload"] == "again"
    assert not said(again)
    again.leave()
    cluster.turn()
    assert host.sent[-1]["type"] == "error"


def test_messages_to_nobody_are_bounded() -> None:
    cluster = Cluster()
    _, two = cluster.two()
    client, other = two.client(target="nobody"), two.enter("other", address="192.0.2.2")
    for number in range(2 * MISSES_BURST):
        client.say("candidate", target=f"nobody {number}", payload={})
        cluster.clock.advance(0)
    errors = said(client)
    refused = errors.count("too many messages from your address to IDs that nobody has")
    assert MISSES_BURST <= refused < len(errors) - MISSES_BURST + 5
    other.say("candidate", target="nobody", payload={})
    cluster.turn()
    assert said(other) == ["there is no 'nobody'"]
