"""ICE: what strangers and odd peers can do, and a peer that falls silent."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted
from aioice import Candidate, stun
from aioice.ice import CandidatePair

from rtunnel.rtc.aiortc import ice
from rtunnel.rtc.aiortc.checks import MAX_REMOTE_CANDIDATES
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.sdp import UnusableCandidate, parse_candidate
from rtunnel.rtc.aiortc.sessions import consent
from tests.no_collector import Left, no_collector
from tests.reverse.net import HOST, turns, until
from tests.rtc.aiortc.ice_parts import GOOD, Agents, Silent, agents, datagram, introduce, run, silent

__all__ = ["agents", "silent"]


def binding(agent: IceAgent, key: bytes | None = None, **attributes: Any) -> bytes:
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    message.attributes.update(attributes)
    message.add_message_integrity(agent.local_password.encode() if key is None else key)
    return bytes(message)


def stun_bytes(*attributes: bytes) -> bytes:
    body = b"".join(attributes)
    return struct.pack("!HHI12s", 1, len(body), 0x2112A442, bytes(12)) + body


STRANGE: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x16",
    "garbage": bytes(range(256)),
    "a short attribute": stun_bytes(struct.pack("!HHH", 0x24, 2, 1)),
    "an attribute beyond the end": stun_bytes(struct.pack("!HHI", 0x8029, 800, 1)),
    "an error code that is short": stun_bytes(struct.pack("!HH", 9, 0)),
    "a name that is no UTF-8": stun_bytes(struct.pack("!HH", 6, 4) + b"\xff\xff\xff\xff"),
    "an unknown method": struct.pack("!HHI12s", 0x0300, 0, 0x2112A442, bytes(12)),
    "an address without a family": stun_bytes(struct.pack("!HHI", 0x20, 4, 0)),
    "SRTP": b"\x80" * 60,
    "TURN channel data": b"\x40\x00\x00\x04abcd",
}


@pytest.mark.parametrize("packet", STRANGE.values(), ids=STRANGE.keys())
@pytest.mark.parametrize("moment", ["gathered", "connected"])
@pytest_twisted.ensureDeferred
async def test_packets_of_strangers_are_dropped(agents: Agents, packet: bytes, moment: str) -> None:
    if moment == "connected":
        agent, other = await agents.pair()
    else:
        agent = other = agents.make()
        await agents.gather(agent)
    candidate = agent.local_candidates[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(3):
            stranger.sendto(packet, (candidate.host, candidate.port))
        # Whoever answers this has seen the others. None of them is answered: the source may be forged.
        name = f"{agent.local_username}:{other.local_username}"
        stranger.sendto(binding(agent, b"wrong", USERNAME=name, PRIORITY=1), (candidate.host, candidate.port))
        stranger.sendto(binding(agent, USERNAME="x:y", PRIORITY=1), (candidate.host, candidate.port))
        stranger.sendto(binding(agent, USERNAME=name), (candidate.host, candidate.port))
        answer, _ = await datagram(stranger)
        assert stun.parse_message(answer).message_class == stun.Class.RESPONSE
    assert agent._queue.qsize() == 0
    assert not agent._closed


@pytest_twisted.ensureDeferred
async def test_packets_before_there_is_a_path_are_bounded(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "MAX_WAITING", 50)
    agent = agents.make()
    await agents.gather(agent)
    for _ in range(200):
        agent.data_received(b"\x16" * 1000, 1)
    assert agent._queue.qsize() == 50


@pytest_twisted.ensureDeferred
async def test_a_check_without_a_priority_is_dropped(agents: Agents) -> None:
    one, two = await agents.pair()
    candidate = one.local_candidates[0]
    name = f"{one.local_username}:{two.local_username}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.sendto(binding(one, USERNAME=name), (candidate.host, candidate.port))
        answer, _ = await datagram(other)
        assert stun.parse_message(answer).message_class == stun.Class.RESPONSE
    assert len(one.remote_candidates) == 1


class Spied:
    """What aioice's parser is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[bytes] = []
        parse = stun.parse_message

        def note(data: bytes) -> stun.Message:
            self.seen.append(data)
            return parse(data)

        monkeypatch.setattr(stun, "parse_message", note)


@pytest_twisted.ensureDeferred
async def test_what_is_not_for_this_agent_is_not_parsed(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks for others, indications, answers to what was not asked, messages larger than a packet."""
    agent = agents.make()
    await agents.gather(agent)
    protocol = agent._protocols[0]
    name = f"{agent.local_username}:efgh"
    spied = Spied(monkeypatch)
    for kind in stun.Class:
        message = stun.Message(stun.Method.BINDING, kind)
        message.attributes["USERNAME"] = "abcd:efgh"
        message.add_message_integrity(b"a guess")
        protocol.datagram_received(bytes(message), (HOST, 4000))
    protocol.datagram_received(binding(agent, USERNAME=name, SOFTWARE="x" * 2000), (HOST, 4000))
    protocol.datagram_received(b"\x16" * 3000, (HOST, 4000))
    assert spied.seen == []
    protocol.datagram_received(binding(agent, USERNAME=name, SOFTWARE="x" * 1000), (HOST, 4000))
    assert len(spied.seen) == 1


DTLS = b"\x16\xfe\xfd" + bytes(10)


@pytest_twisted.ensureDeferred
async def test_dtls_is_taken_from_where_the_peer_is_known_to_be(agents: Agents) -> None:
    agent, other = agents.make(controlling=True), agents.make()
    for one in (agent, other):
        await agents.gather(one)
    protocol, there = agent._protocols[0], (other.local_candidates[0].host, other.local_candidates[0].port)
    await introduce(agent, other)
    # That the peer names an address proves nothing.
    protocol.datagram_received(DTLS, there)
    assert not agent._queue.qsize()
    # A check does, before this end itself begins to check.
    protocol.datagram_received(binding(agent, b"wrong", USERNAME=f"{agent.local_username}:x"), (HOST, 4001))
    protocol.datagram_received(binding(agent, USERNAME=f"{agent.local_username}:{other.local_username}"), (HOST, 4002))
    for port in (4001, 4002, 4003):
        protocol.datagram_received(DTLS, (HOST, port))
    assert agent._queue.qsize() == 1
    connecting = [agents.start(one.connect()) for one in (agent, other)]
    await until(lambda: all(task.done() for task in connecting), "a path")
    # So does the answer to one of ours.
    for end, address in ((agent, there), (other, (agent.local_candidates[0].host, agent.local_candidates[0].port))):
        before = end._queue.qsize()
        for source in (address, (HOST, 4001), (HOST, 4003)):
            end._protocols[0].datagram_received(DTLS, source)
        assert end._queue.qsize() == before + 1


@pytest_twisted.ensureDeferred
async def test_a_peer_is_in_no_more_places_than_it_may_have_candidates(agents: Agents) -> None:
    agent, other = await agents.pair()
    name = f"{agent.local_username}:{other.local_username}"
    for port in range(1, 300):
        agent._protocols[0].datagram_received(binding(agent, USERNAME=name, PRIORITY=1), (HOST, port))
        agent._protocols[0].datagram_received(DTLS, (HOST, port))
    assert agent._queue.qsize() <= MAX_REMOTE_CANDIDATES


@pytest_twisted.ensureDeferred
async def test_a_peer_changes_its_mind_about_the_roles(agents: Agents) -> None:
    agent, other = agents.make(controlling=True), agents.make()
    for one in (agent, other):
        await agents.gather(one)
    name = f"{agent.local_username}:{other.local_username}"
    agent._tie_breaker = 2**32
    roles = []
    for number in range(20):
        claim: dict[str, Any] = {"ICE-CONTROLLED": 0} if number % 2 else {"ICE-CONTROLLING": 2**64 - 1}
        agent._protocols[0].datagram_received(binding(agent, USERNAME=name, PRIORITY=1, **claim), (HOST, 4000))
        roles.append(agent.ice_controlling)
    # The first was a conflict, and it is settled.
    assert roles == [False] * 20


@pytest_twisted.ensureDeferred
async def test_a_peer_that_insists_on_a_conflict_of_roles(agents: Agents, silent: Silent) -> None:
    """This end checks once in each role, however often it is told that there is a conflict."""
    agent = agents.make(controlling=True)
    await agents.gather(agent)
    agent.remote_username, agent.remote_password = "abcd", "x" * 22
    await agent.add_remote_candidate(Candidate("1", 1, "udp", 1, HOST, silent.port, "host"))
    agents.start(agent.connect())
    silent.socket.setblocking(False)
    checks = 0

    def insist() -> bool:
        nonlocal checks
        with suppress(BlockingIOError):
            data, source = silent.socket.recvfrom(2000)
            checks += 1
            answer = stun.Message(stun.Method.BINDING, stun.Class.ERROR, stun.parse_message(data).transaction_id)
            answer.attributes["ERROR-CODE"] = (487, "Role Conflict")
            answer.add_message_integrity(b"x" * 22)
            silent.socket.sendto(bytes(answer), source)
        return checks > 2 or [pair.state for pair in agent._check_list] == [CandidatePair.State.FAILED]

    await until(insist, "the end of the check")
    assert checks == 2


@pytest_twisted.ensureDeferred
async def test_checks_from_many_places_are_bounded(agents: Agents) -> None:
    one, two = await agents.pair()
    name = f"{one.local_username}:{two.local_username}"
    protocol = one._protocols[0]
    for port in range(1, 300):
        protocol.datagram_received(binding(one, USERNAME=name, PRIORITY=1), (HOST, port))
    assert len(one.remote_candidates) == MAX_REMOTE_CANDIDATES
    assert len(one._check_list) <= MAX_REMOTE_CANDIDATES
    # The one that is used is known, and goes on.
    checked = len(one._check_list)
    where = (two.local_candidates[0].host, two.local_candidates[0].port)
    protocol.datagram_received(binding(one, USERNAME=name, PRIORITY=1), where)
    assert len(one._check_list) == checked


@pytest_twisted.ensureDeferred
async def test_candidates_are_bounded(agents: Agents) -> None:
    agent = agents.make()
    await agents.gather(agent)
    for port in range(5001, 5500):
        await agent.add_remote_candidate(parse_candidate(f"candidate:1 1 udp 1 192.0.2.1 {port} typ host"))
    assert len(agent.remote_candidates) == MAX_REMOTE_CANDIDATES
    await agent.add_remote_candidate(None)
    assert agent._remote_candidates_end
    await agent.add_remote_candidate(None)
    await agent.add_remote_candidate(parse_candidate(GOOD))


@pytest.mark.parametrize(
    "host", ["no.such.name", "fe80::1%a.b.c", "1.2.3", "", "::ffff:1.2.3.4", "0.0.0.0", "255.255.255.255"]
)
@pytest_twisted.ensureDeferred
async def test_candidates_with_odd_addresses(agents: Agents, host: str) -> None:
    one, two = agents.make(controlling=True), agents.make()
    for agent in (one, two):
        await agents.gather(agent)
    with pytest.raises(UnusableCandidate):
        await one.add_remote_candidate(Candidate("x", 1, "udp", 10**30, host, 5000, "host"))
    await one.add_remote_candidate(Candidate("x", 1, "udp", -5, HOST, 5000, "strange"))
    await introduce(one, two)
    connecting = [agents.start(agent.connect()) for agent in (one, two)]
    await until(lambda: all(task.done() for task in connecting), "a path")
    for task in connecting:
        task.result()


# Consent


@pytest_twisted.ensureDeferred
async def test_a_peer_that_says_nothing_any_more_is_given_up(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "DEAD_AFTER", 2)
    one, two = await agents.pair()
    monkeypatch.setattr(two, "request_received", lambda *message: None)
    await until(lambda: one._closed, "the end")
    assert one.peer_is_silent
    assert not two._closed


@pytest_twisted.ensureDeferred
async def test_no_question_outlives_the_sockets(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is asked while the agent closes, say, because the peer has asked something."""
    one, two = await agents.pair()
    monkeypatch.setattr(two, "request_received", lambda *message: None)

    async def ask_once_more() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            one._asking.add(asyncio.ensure_future(one._ask_consent()))
            await asyncio.sleep(0)

    one._asking.add(asyncio.ensure_future(ask_once_more()))
    await turns(3)
    protocols = list(one._protocols)
    await run(one.close())
    assert not any(protocol.transactions for protocol in protocols)


@pytest_twisted.ensureDeferred
async def test_a_question_without_an_answer_goes_at_once(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the socket, which has the agent, and so on. The garbage collector may come late."""
    monkeypatch.setattr(stun, "RETRY_RTO", 0.01)
    one, two = await agents.pair()
    monkeypatch.setattr(two, "request_received", lambda *message: None)
    with no_collector():
        one._asking.add(asyncio.ensure_future(one._ask_consent()))
        await until(lambda: any(port.transactions for port in one._protocols), "the question")
        left = Left(question for port in one._protocols for question in port.transactions.values())
        await run(asyncio.wait(one._asking))
        one._asking.clear()
        assert not left()


@pytest_twisted.ensureDeferred
async def test_a_peer_that_answers_is_not_given_up(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "DEAD_AFTER", 2)
    one, two = await agents.pair()
    asked = 0
    take: Callable[..., None] = two.request_received

    def count(*message: Any) -> None:
        nonlocal asked
        asked += 1
        take(*message)

    monkeypatch.setattr(two, "request_received", count)
    await until(lambda: asked >= 3, "three questions")
    await turns(5)
    assert not one._closed
    assert one._silent < 1.5
