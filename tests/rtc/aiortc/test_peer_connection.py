"""Peer connections over loopback: how they come about, how they do not, and that nothing of them stays."""

from __future__ import annotations

import re

import pytest
import pytest_twisted

from rtunnel.errors import BadDescription
from rtunnel.rtc.aiortc import addresses as local, checks, peer_connection
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.sessions import consent, session
from rtunnel.rtc.settings import IceSettings
from rtunnel.wire.webrtc.signaling import Candidate
from tests.reverse.net import turns, until
from tests.rtc.aiortc.peer_connection_parts import Ends, ends
from tests.rtc.fakes import FakeChannelUser

__all__ = ["ends"]


#: What to look at when there is no path and no TURN server was given.
NO_TURN = "(does UDP get out at both ends? otherwise a TURN server helps, see --turn-server)"


@pytest_twisted.ensureDeferred
async def test_two_ends_connect_and_speak(ends: Ends) -> None:
    one, two = await ends.pair()
    assert one.connection.path.startswith("direct, 127.0.0.1:")
    assert one.connection.max_message == 262144
    channel = one.connection.open_channel("tcp-x", "web")
    user, other = FakeChannelUser(), FakeChannelUser()
    channel.use(user)
    two.peer.on_channel = lambda arrived: arrived.use(other)
    await until(lambda: user.told == ["opened"], "a channel")
    channel.send(b"there")
    two.peer.arrived[0].send_text("and back")
    await until(lambda: other.told and len(user.told) == 2, "messages")
    assert (other.told, user.told) == ([b"there"], ["opened", "and back"])
    # The answer may come before the SACK from which it is known.
    await until(lambda: one.connection.round_trip > 0, "a round trip")
    # It is always told when there are no more candidates.
    assert [candidate.candidate for candidate in one.candidates] == [""]
    await one.connection.close()
    assert await two.ends() == "the peer closed the connection"
    assert (user.told[-1], other.told[-1]) == ("closed", "closed")
    assert one.told[-1] == ("connected",)


@pytest_twisted.ensureDeferred
async def test_an_answer_may_choose_to_be_passive(ends: Ends) -> None:
    one, two = ends.make(), ends.make()
    one.connection.offer()
    two.connection.take_offer((await one.description()).replace("a=setup:actpass", "a=setup:active"))
    answer = await two.description()
    assert "a=setup:passive" in answer
    one.connection.take_answer(answer)
    # The offering end takes it for what it says, and both agree.
    assert one.connection._dtls._role == "client"
    await ends.connected(one, two)


@pytest_twisted.ensureDeferred
async def test_candidates_before_the_descriptions(ends: Ends) -> None:
    one, two = ends.make(), ends.make()
    one.connection.offer()
    offer = await one.description()
    found = re.findall("a=(candidate:.*)\r\n", offer)
    for text in [*found, ""]:
        two.connection.take_candidate(Candidate(text))
    two.connection.take_offer(re.sub("a=candidate:.*\r\n", "", offer))
    answer = await two.description()
    for text in re.findall("a=(candidate:.*)\r\n", answer):
        one.connection.take_candidate(Candidate(text, "", 0))
    one.connection.take_answer(re.sub("a=candidate:.*\r\n", "", answer))
    await ends.connected(one, two)


@pytest_twisted.ensureDeferred
async def test_candidates_that_cannot_be_used_change_nothing(ends: Ends) -> None:
    one, two = ends.make(), ends.make()
    one.connection.offer()
    offer = await one.description()
    odd = [
        Candidate("nonsense"),
        Candidate("candidate:1 1 tcp 1 127.0.0.1 9 typ host"),
        Candidate("candidate:1 1 udp 1 no.such.name 9 typ host"),
        Candidate("candidate:1 1 udp 1 fe80::1%x 9 typ host"),
        Candidate("", "another section", 0),
        Candidate("", None, 7),
        Candidate("candidate:1 1 udp 1 127.0.0.1 9 typ host", "1", 1),
    ]
    for candidate in odd:
        two.connection.take_candidate(candidate)
    two.connection.take_offer(offer)
    answer = await two.description()
    for candidate in odd:
        two.connection.take_candidate(candidate)
    one.connection.take_answer(answer)
    await ends.connected(one, two)
    for candidate in odd:
        one.connection.take_candidate(candidate)
    await turns(5)
    assert not one.lost


@pytest_twisted.ensureDeferred
async def test_a_flood_of_candidates_is_bounded(ends: Ends) -> None:
    one, two = ends.make(), ends.make()
    one.connection.offer()
    offer = await one.description()
    for port in range(1, 2000):
        two.connection.take_candidate(Candidate(f"candidate:1 1 udp 1 192.0.2.1 {port} typ host"))
    assert len(two.connection._sessions.current._early) == session.MAX_EARLY_CANDIDATES
    two.connection.take_offer(offer)
    one.connection.take_answer(await two.description())
    for port in range(1, 2000):
        two.connection.take_candidate(Candidate(f"candidate:1 1 udp 1 192.0.2.2 {port} typ host"))
    await turns(5)
    assert len(two.connection._ice.remote_candidates) <= checks.MAX_REMOTE_CANDIDATES


@pytest_twisted.ensureDeferred
async def test_descriptions_where_none_is_expected(ends: Ends) -> None:
    one, two = ends.make(), ends.make()
    with pytest.raises(BadDescription, match="an answer where none"):
        one.connection.take_answer("v=0")
    one.connection.offer()
    with pytest.raises(BadDescription, match="an answer where none"):
        one.connection.take_answer("v=0")
    offer = await one.description()
    with pytest.raises(BadDescription, match="an offer where none"):
        one.connection.take_offer(offer)
    two.connection.take_offer(offer)
    with pytest.raises(BadDescription, match="an offer where none"):
        two.connection.take_offer(offer)
    with pytest.raises(BadDescription, match="an answer where none"):
        two.connection.take_answer(offer)
    answer = await two.description()
    one.connection.take_answer(answer)
    with pytest.raises(BadDescription, match="an answer where none"):
        one.connection.take_answer(answer)
    one.connection.offer()
    await ends.connected(one, two)
    # The same once more has no effect.
    one.connection.take_answer(answer)
    await one.connection.close()
    with pytest.raises(BadDescription):
        one.connection.take_offer(offer)


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_none_may_be_followed_by_one(ends: Ends) -> None:
    one, two = ends.make(), ends.make()
    one.connection.offer()
    two.connection.take_offer(await one.description())
    answer = await two.description()
    with pytest.raises(BadDescription):
        one.connection.take_answer("hello")
    one.connection.take_answer(answer)
    await ends.connected(one, two)


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_is_not_the_one_that_was_promised(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "DEAD_AFTER", 1)
    one, two = ends.make(), ends.make()
    one.connection.offer()
    two.connection.take_offer(await one.description())
    answer = await two.description()
    wrong = re.sub("fingerprint:sha-256 .*", "fingerprint:sha-256 " + ":".join(["00"] * 32), answer)
    assert wrong != answer
    one.connection.take_answer(wrong)
    why = "its certificate is not the one that its description promises"
    assert await one.ends() == f"the DTLS handshake failed: {why}"
    # DTLS was set up as the other end sees it, and nothing more comes.
    assert await two.ends() == "the peer no longer answers"
    assert ("connected",) not in one.told


@pytest_twisted.ensureDeferred
async def test_a_password_that_is_wrong(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", 0.3)
    one, two = ends.make(), ends.make()
    one.connection.offer()
    two.connection.take_offer(re.sub("ice-pwd:.*", "ice-pwd:" + "x" * 22, await one.description()))
    one.connection.take_answer(re.sub("ice-pwd:.*", "ice-pwd:" + "y" * 22, await two.description()))
    assert "no path to the peer was found" in await one.ends()
    assert "no path to the peer was found" in await two.ends()


@pytest_twisted.ensureDeferred
async def test_no_candidate_at_all(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", 0.3)
    one, two = ends.make(), ends.make()
    one.connection.offer()
    offer = re.sub("a=candidate:.*\r\n", "", await one.description())
    two.connection.take_offer(offer + "a=end-of-candidates\r\n")
    assert await two.ends() == "no path to the peer was found within 0 s: it offers no address"


@pytest_twisted.ensureDeferred
async def test_candidates_of_which_none_can_be_used(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", 0.3)
    one, two = ends.make(), ends.make()
    one.connection.offer()
    useless = "a=candidate:1 1 tcp 1 127.0.0.1 9 typ host\r\na=candidate:1 1 udp 1 2001:db8::1 5000 typ host\r\n"
    two.connection.take_offer(re.sub("(a=candidate:.*\r\n)+", useless, await one.description()))
    two.connection.take_candidate(Candidate("candidate:1 1 udp 1 host.example.org 9 typ host"))
    assert await two.ends() == (
        "no path to the peer was found within 0 s: none of its candidates can be used (1 over TCP, 1 malformed, "
        "1 of an IP version of which this end has no address)"
    )


@pytest_twisted.ensureDeferred
async def test_a_peer_whose_candidates_cannot_be_used_may_reach_us(ends: Ends) -> None:
    """RFC 8863: its checks come through, although it has told that there are no other candidates."""
    one, two = ends.make(), ends.make()
    one.connection.offer()
    offer = re.sub("a=candidate:.*\r\n", "", await one.description()) + "a=end-of-candidates\r\n"
    two.connection.take_offer(offer)
    answer = await two.description()
    await turns(5)
    assert not two.lost
    one.connection.take_answer(answer)
    await ends.connected(one, two)


@pytest_twisted.ensureDeferred
async def test_many_pairs_get_more_time(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", 0.1)
    monkeypatch.setattr(IceAgent, "checks_take", 0.9)
    one, two = ends.make(), ends.make()
    one.connection.offer()
    offer = await one.description()
    await one.connection.close()
    two.connection.take_offer(offer)
    assert await two.ends() == f"no path to the peer was found within 1 s {NO_TURN}"


@pytest_twisted.ensureDeferred
async def test_no_address_to_offer(ends: Ends) -> None:
    one = ends.make(IceSettings(interfaces=("nowhere",)))
    one.connection.offer()
    assert "--ice-interface nowhere" in await one.ends()
    assert len(one.told) == 1


@pytest_twisted.ensureDeferred
async def test_more_candidates_than_a_description_holds(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [("lo", f"127.0.1.{number}") for number in range(1, 41)]
    monkeypatch.setattr(local, "_all_addresses", lambda: iter(addresses))
    one = ends.make(IceSettings(interfaces=("lo",)))
    one.connection.offer()
    assert (await one.description()).count("a=candidate:") == 32
    await until(lambda: len(one.candidates) == 9, "the others and an end")
    assert one.candidates[-1].candidate == ""
    assert all("127.0.1." in candidate.candidate for candidate in one.candidates[:-1])


@pytest_twisted.ensureDeferred
async def test_a_peer_that_never_comes_is_given_up(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", 0.3)
    one, two = ends.make(), ends.make()
    one.connection.offer()
    offer = await one.description()
    await one.connection.close()
    two.connection.take_offer(offer)
    assert await two.ends() == f"no path to the peer was found within 0 s {NO_TURN}"
    # Its user is told last; everything is closed then or soon.
    await two.connection.close()
