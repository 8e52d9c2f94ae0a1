"""ICE restarts: another path for a connection that goes on."""

from __future__ import annotations

import re

import pytest
import pytest_twisted

from rtunnel.errors import BadDescription
from rtunnel.rtc.aiortc.sessions import consent, sessions
from tests.no_collector import Left, no_collector
from tests.reverse.net import turns, until
from tests.rtc.aiortc.ice_parts import open_sockets
from tests.rtc.aiortc.peer_connection_parts import End, Ends, ends
from tests.rtc.fakes import FakeChannelUser

__all__ = ["ends"]


def told(end: End, kind: str) -> list[str]:
    return [str(line[1]) if len(line) > 1 else kind for line in end.told if line[0] == kind]


async def offer(end: End) -> str:
    """Have an end make one more offer, and return it."""
    before = len(told(end, "offer"))
    end.connection.restart()
    await until(lambda: len(told(end, "offer")) > before, "an offer")
    return told(end, "offer")[-1]


async def answer(end: End, sdp: str) -> str:
    before = len(told(end, "answer"))
    end.connection.take_offer(sdp)
    await until(lambda: len(told(end, "answer")) > before, "an answer")
    return told(end, "answer")[-1]


def wants(end: End) -> bool:
    return end.connection.wants_restart


def line(sdp: str, name: str) -> str:
    found = re.search(f"^{name}(.*?)\r$", sdp, re.MULTILINE)
    assert found is not None
    return found[1]


def cut(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes to the present addresses of an end is lost."""
    for protocol in end.connection._ice._protocols:
        monkeypatch.setattr(protocol, "datagram_received", lambda data, addr: None)
        monkeypatch.setattr(protocol, "records_received", lambda data, segment, addr: None)


async def exchange(one: End, two: End) -> None:
    """Bytes both ways over a new channel."""
    before = len(two.peer.arrived)
    channel, user = one.connection.open_channel("tcp-x"), FakeChannelUser()
    channel.use(user)
    await until(lambda: user.told and len(two.peer.arrived) > before, "a channel")
    channel.send(b"there")
    other = two.peer.arrived[-1]
    await until(lambda: b"there" in other._user.told, "bytes")
    other.send(b"back")
    await until(lambda: b"back" in user.told, "bytes")


@pytest.mark.parametrize("client_offers", [True, False])
@pytest_twisted.ensureDeferred
async def test_another_path_keeps_channels(ends: Ends, monkeypatch: pytest.MonkeyPatch, client_offers: bool) -> None:
    monkeypatch.setattr(sessions, "LINGER", 0.05)
    one, two = await ends.pair()
    before = open_sockets()
    channel, user = one.connection.open_channel("tcp-x"), FakeChannelUser()
    channel.use(user)
    await until(lambda: user.told and two.peer.arrived, "a channel")
    paths = one.connection.path, two.connection.path
    first, second = (one, two) if client_offers else (two, one)
    more = await offer(first)
    first.connection.take_answer(await answer(second, more))
    await until(lambda: told(one, "path") and told(two, "path"), "another path")
    assert one.connection.path not in paths
    assert two.connection.path not in paths
    channel.send(b"x")
    await until(lambda: b"x" in two.peer.arrived[0]._user.told, "bytes on the same channel")
    await exchange(one, two)
    await until(lambda: open_sockets() == before, "the earlier sockets to be closed")
    assert user.told == ["opened"]


@pytest_twisted.ensureDeferred
async def test_what_a_later_description_says(ends: Ends) -> None:
    one, two = await ends.pair()
    first, second = told(one, "offer")[0], await offer(one)
    answers = told(two, "answer")[0], await answer(two, second)
    for earlier, later in ((first, second), answers):
        for same in ("a=fingerprint:", "a=mid:", "a=sctp-port:", "a=setup:"):
            assert line(earlier, same) == line(later, same)
        for other in ("a=ice-ufrag:", "a=ice-pwd:"):
            assert line(earlier, other) != line(later, other)
        name, number, version, *_ = line(earlier, "o=").split()
        assert line(later, "o=").split()[:3] == [name, number, str(int(version) + 1)]


@pytest_twisted.ensureDeferred
async def test_a_path_that_fails_is_noticed_and_left(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await ends.pair()
    cut(one, monkeypatch)
    cut(two, monkeypatch)
    await until(lambda: told(one, "silent") and told(two, "silent"), "the end of the path")
    assert wants(one)
    one.connection.take_answer(await answer(two, await offer(one)))
    await until(lambda: told(one, "path") and told(two, "path"), "another path")
    assert not wants(one)
    await exchange(one, two)
    assert not one.lost + two.lost


@pytest_twisted.ensureDeferred
async def test_bytes_on_their_way_when_the_path_fails(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await ends.pair()
    channel, user = one.connection.open_channel("tcp-x"), FakeChannelUser()
    channel.use(user)
    await until(lambda: user.told and two.peer.arrived, "a channel")
    got = two.peer.arrived[0]._user.told
    sent = [bytes([number]) * 1000 for number in range(200)]
    for number, message in enumerate(sent):
        if number == 100:
            await until(lambda: got, "the first bytes")
            cut(one, monkeypatch)
            cut(two, monkeypatch)
        channel.send(message)
    await until(lambda: told(one, "silent"), "the end of the path")
    one.connection.take_answer(await answer(two, await offer(one)))
    await until(lambda: len(got) == len(sent), "all bytes")
    assert got == sent


@pytest_twisted.ensureDeferred
async def test_a_peer_that_is_gone_is_noticed_as_soon(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "DEAD_AFTER", 3)
    one, _ = await ends.pair()
    cut(one, monkeypatch)
    await until(lambda: told(one, "silent"), "the end of the path")
    await offer(one)
    assert await one.ends() == "the peer no longer answers"


@pytest_twisted.ensureDeferred
async def test_a_peer_that_answers_has_time_for_a_path(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "DEAD_AFTER", 2)
    monkeypatch.setattr(sessions, "RESTART_TIMEOUT", 4.0)
    one, two = await ends.pair()
    cut(one, monkeypatch)
    cut(two, monkeypatch)
    more = await offer(one)
    two.connection.take_offer(more)
    await until(lambda: len(told(two, "answer")) == 2, "an answer")
    assert two.connection._sessions.next is not None
    await until(lambda: two.connection._ice._closed, "the end of the path")
    assert not two.lost
    assert await two.ends() == "the peer no longer answers"
    assert await one.ends()


@pytest_twisted.ensureDeferred
async def test_a_restart_that_leads_nowhere_leaves_the_path(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "RESTART_TIMEOUT", 0.2)
    one, two = await ends.pair()
    before, path = open_sockets(), one.connection.path
    more = await offer(one)
    await answer(two, more)
    await until(lambda: open_sockets() == before, "its sockets to be closed")
    assert one.connection.path == path
    await exchange(one, two)


@pytest_twisted.ensureDeferred
async def test_an_offer_that_was_lost_is_made_again(ends: Ends) -> None:
    one, two = await ends.pair()
    await offer(one)
    again = await offer(one)
    first = await answer(two, again)
    second = await answer(two, again)
    assert line(first, "a=ice-ufrag:") == line(second, "a=ice-ufrag:")
    one.connection.take_answer(first)
    one.connection.take_answer(second)
    await until(lambda: told(one, "path") and told(two, "path"), "another path")
    one.connection.take_answer(second)
    await exchange(one, two)


@pytest_twisted.ensureDeferred
async def test_a_later_restart_takes_the_place_of_one_under_way(ends: Ends) -> None:
    one, two = await ends.pair()
    before = open_sockets()
    await answer(two, await offer(one))
    one.connection._sessions.give_up_next()
    one.connection.take_answer(await answer(two, await offer(one)))
    await until(lambda: told(one, "path") and told(two, "path"), "another path")
    await exchange(one, two)
    await until(lambda: open_sockets() == before, "the other sockets to be closed")


@pytest_twisted.ensureDeferred
async def test_another_offer_in_the_same_session_of_ice(ends: Ends) -> None:
    """A browser makes one when, say, its page asks for it."""
    one, two = await ends.pair()
    again = await answer(two, told(one, "offer")[0])
    assert line(again, "a=ice-ufrag:") == line(told(two, "answer")[0], "a=ice-ufrag:")
    await turns(5)
    assert not told(two, "path")
    await exchange(one, two)


@pytest.mark.parametrize("what", ["fingerprint:sha-256 ..", "o=- [0-9]+", "o=.*\r\n"])
@pytest_twisted.ensureDeferred
async def test_an_offer_of_another_connection(ends: Ends, what: str) -> None:
    one, two = await ends.pair()
    more = await offer(one)
    assert two.connection.continues(more)
    first = "11" if "sha-256 00" in more else "00"
    other = re.sub(what, {"o=- [0-9]+": "o=- 5"}.get(what, what[:-2] + first if "sha" in what else ""), more)
    assert other != more
    assert not two.connection.continues(other)
    with pytest.raises(BadDescription):
        two.connection.take_offer(other)
    await exchange(one, two)


@pytest_twisted.ensureDeferred
async def test_an_answer_of_another_connection_ends_this_one(ends: Ends) -> None:
    one, _ = await ends.pair()
    third = ends.make()
    third.connection.take_offer(await offer(one))
    one.connection.take_answer(await third.description())
    assert await one.ends() == "the peer has given this connection up"


@pytest_twisted.ensureDeferred
async def test_an_answer_to_nothing(ends: Ends) -> None:
    one, two = await ends.pair()
    more = await answer(two, await offer(one))
    one.connection._sessions.give_up_next()
    with pytest.raises(BadDescription):
        one.connection.take_answer(more)
    await exchange(one, two)


@pytest.mark.parametrize("when", ["begun", "offered", "answered", "changed"])
@pytest_twisted.ensureDeferred
async def test_closed_in_a_restart(ends: Ends, when: str) -> None:
    one, two = await ends.pair()
    if when == "begun":
        one.connection.restart()
    else:
        more = await offer(one)
        if when != "offered":
            one.connection.take_answer(await answer(two, more))
        if when == "changed":
            await until(lambda: told(one, "path") and told(two, "path"), "another path")
    await one.connection.close()
    await two.ends()


@pytest_twisted.ensureDeferred
async def test_nothing_of_a_restart_is_left(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "LINGER", 0.01)

    async def connect() -> Left:
        one, two = await ends.pair()
        agents = [one.connection._ice, two.connection._ice]
        one.connection.take_answer(await answer(two, await offer(one)))
        await until(lambda: told(one, "path") and told(two, "path"), "another path")
        await answer(two, await offer(one))
        unused = [end.connection._sessions.next for end in (one, two)]
        used = [end.connection._sessions.current for end in (one, two)]
        left = Left([*agents, *unused, *used, one.connection, two.connection])
        for end in (one, two):
            await end.connection.close()
        ends.all.clear()
        return left

    with no_collector():
        left = await connect()
        await turns()
        assert not left()


@pytest_twisted.ensureDeferred
async def test_an_address_that_is_gone(ends: Ends) -> None:
    one, _ = await ends.pair()
    one.connection.addresses_changed({"127.0.0.1", "192.0.2.1"})
    assert not wants(one)
    one.connection.addresses_changed({"192.0.2.1"})
    assert wants(one)
    one.connection.addresses_changed({"127.0.0.1"})
    assert not wants(one)


@pytest_twisted.ensureDeferred
async def test_an_address_that_comes_while_ice_restarts(ends: Ends) -> None:
    one, two = await ends.pair()
    await offer(one)
    before = one.connection._sessions.next
    one.connection.addresses_changed({"127.0.0.1", "192.0.2.1"})
    assert wants(one)
    one.connection.take_answer(await answer(two, await offer(one)))
    await until(lambda: told(one, "path") and told(two, "path"), "another path")
    assert before is not one.connection._sessions.current
    await exchange(one, two)


@pytest_twisted.ensureDeferred
async def test_no_address_for_another_path(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await ends.pair()
    with monkeypatch.context() as none:
        none.setattr("rtunnel.rtc.aiortc.ice.local_addresses", lambda interfaces: [])
        one.connection.restart()
        await until(lambda: one.connection._sessions.next is None, "the end of the restart")
    await exchange(one, two)
