"""Checks of paths: where none is sent whatever a peer names, and how few until somebody has answered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ifaddr
import pytest
import pytest_twisted
from aioice import stun

from rtunnel.rtc.aiortc import checks
from rtunnel.rtc.aiortc.addresses import broadcast_addresses, why_unusable
from rtunnel.rtc.aiortc.checks import MAX_CREDIT, MAX_TO_ADDRESS, MAX_UNANSWERED, CheckBudget
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.sdp import MAX_FRAGMENT
from tests.reverse.net import HOST, until
from tests.rtc.aiortc.ice_parts import Agents, agents, introduce, silent

__all__ = ["agents", "silent"]

OWN = ("192.0.2.5", "2001:db8::5")
BROADCASTS = {"192.0.2.255"}
NOT_ONE, HERE = "not the address of one machine", "an address that has a meaning on one machine only"
LOOPBACK, SYSTEM = "a loopback address, and --ice-interface names none here", "a port of a system service"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.0.2.9", ""),
        ("10.0.0.9", ""),
        ("169.254.1.9", ""),
        ("100.64.0.9", ""),
        ("2001:db8::9", ""),
        ("fe80::9", ""),
        ("fd00::9", ""),
        ("0.0.0.0", NOT_ONE),
        ("0.0.0.9", NOT_ONE),
        ("::", NOT_ONE),
        ("224.0.0.251", NOT_ONE),
        ("239.255.255.250", NOT_ONE),
        ("ff02::1", NOT_ONE),
        ("255.255.255.255", NOT_ONE),
        ("240.0.0.1", NOT_ONE),
        ("192.0.2.255", NOT_ONE),
        ("::ffff:192.0.2.9", HERE),
        ("::ffff:127.0.0.1", HERE),
        ("fe80::9%eth0", HERE),
        ("127.0.0.1", LOOPBACK),
        ("127.8.9.10", LOOPBACK),
        ("::1", LOOPBACK),
    ],
)
def test_addresses_of_a_peer(address: str, why: str) -> None:
    assert why_unusable(address, 5000, OWN, BROADCASTS) == why


def test_a_peer_has_a_loopback_address_only_if_this_end_has_one() -> None:
    for own in ("127.0.0.1", "::1"):
        for address in ("127.0.0.1", "127.0.0.2", "::1"):
            assert not why_unusable(address, 5000, (*OWN, own), BROADCASTS)


@pytest.mark.parametrize(
    ("address", "port", "is_good"),
    [
        ("198.18.0.1", 1024, True),
        ("1.1.1.1", 53, False),
        ("1.1.1.1", 1023, False),
        ("1.1.1.1", 443, True),
        ("1.1.1.1", 80, True),
        ("1.1.1.1", 3478, True),
        ("10.0.0.1", 443, False),
        ("192.168.1.1", 80, False),
        ("fd00::1", 443, False),
        ("2606:4700::1111", 443, True),
        ("2606:4700::1111", 53, False),
    ],
)
def test_ports_of_a_peer(address: str, port: int, is_good: bool) -> None:
    assert why_unusable(address, port, OWN, BROADCASTS) == ("" if is_good else SYSTEM)


def test_broadcast_addresses_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    ips = [
        SimpleNamespace(ip="192.0.2.5", network_prefix=24),
        SimpleNamespace(ip="10.1.2.3", network_prefix=20),
        SimpleNamespace(ip="198.51.100.7", network_prefix=31),
        SimpleNamespace(ip="198.51.100.9", network_prefix=32),
        SimpleNamespace(ip=("2001:db8::5", 0, 0), network_prefix=64),
    ]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: [SimpleNamespace(name="eth0", ips=ips)])
    assert broadcast_addresses() == {"192.0.2.255", "10.1.15.255"}


@pytest.mark.parametrize("host", ["127.0.0.1", "224.0.0.251", "0.0.0.0", "192.0.2.255"])
@pytest.mark.parametrize("is_hidden", [False, True])
@pytest_twisted.ensureDeferred
async def test_such_candidates_are_not_used(
    agents: Agents, monkeypatch: pytest.MonkeyPatch, host: str, is_hidden: bool
) -> None:
    """Nor if a name in .local turns out to mean such an address."""
    agent = agents.make()
    monkeypatch.setattr(checks, "broadcast_addresses", lambda: BROADCASTS)

    async def look_up(name: str) -> str:
        return host

    monkeypatch.setattr(agent._names, "look_up", look_up)
    name = "4a1b7c1e-66a3-4d8b-b1ae-7b2f0e35b1a1.local" if is_hidden else host
    await agent.take_candidate(f"candidate:1 1 udp 1 {name} 5000 typ host")
    assert not agent.remote_candidates
    assert agent.why_no_path.startswith(": none of its candidates can be used (1 ")


# How many


def spend(budget: CheckBudget, host: str, times: int = 1000, *, socket: int = 1, candidates: int = 1000) -> int:
    return sum(budget.spend(socket, host, candidates) for _ in range(times))


def test_one_address_gets_few_checks_before_it_answers() -> None:
    budget = CheckBudget()
    assert spend(budget, "192.0.2.1") == MAX_TO_ADDRESS
    assert spend(budget, "192.0.2.2") == MAX_TO_ADDRESS
    assert spend(budget, "2001:db8::1") == MAX_TO_ADDRESS
    assert spend(budget, "2001:db8::2") == 0, "it is the same /64"
    assert spend(budget, "192.0.2.1", socket=2) == MAX_TO_ADDRESS
    budget.answered("2001:db8::3")
    assert spend(budget, "2001:db8::1") == 1000
    assert spend(budget, "192.0.2.1") == 0


def test_all_addresses_together_get_few_checks() -> None:
    budget = CheckBudget()
    sent = sum(spend(budget, f"192.0.2.{number}", candidates=64) for number in range(64))
    assert sent == MAX_UNANSWERED + 2 * 64
    sent = sum(spend(budget, f"192.0.2.{number}", socket=2, candidates=64) for number in range(64))
    assert sent == MAX_UNANSWERED + 2 * 64


def test_a_check_from_there_is_worth_two_from_here() -> None:
    budget = CheckBudget()
    assert not budget.checked(1, "192.0.2.1")
    assert spend(budget, "192.0.2.1") == MAX_TO_ADDRESS + 2
    assert budget.checked(1, "192.0.2.1"), "one was held back"
    assert not budget.checked(1, "192.0.2.1")
    for _ in range(100):
        budget.checked(1, "192.0.2.1")
    assert spend(budget, "192.0.2.1") == MAX_CREDIT


class Wire:
    """A transport that sends nothing, and counts."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.sent: list[tuple[bytes, str]] = []

    def sendto(self, data: bytes, addr: tuple[str, int]) -> None:
        self.sent.append((data, addr[0]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def bytes_sent(self) -> int:
        return sum(len(data) for data, _ in self.sent)


async def name_strangers(agents: Agents, candidates: list[str]) -> tuple[IceAgent, Wire]:
    """Let a peer name these, and check them as often as checks are repeated at all."""
    agent = agents.make()
    await agents.gather(agent)
    wire = agent._protocols[0].transport = Wire(agent._protocols[0].transport)  # type: ignore[assignment]
    agent.remote_username, agent.remote_password = "u" * MAX_FRAGMENT, "p" * 22
    for text in candidates:
        await agent.take_candidate(text)
    agents.start(agent.connect())
    return agent, wire


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks are repeated at once."""
    monkeypatch.setattr(stun, "RETRY_RTO", 0.001)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("count", "is_one", "most"),
    [(1, True, 4), (3, True, 4), (64, True, 1), (8, False, 6), (20, False, 6), (64, False, 6)],
    ids=["one", "three-at-one", "many-at-one", "eight", "twenty", "many"],
)
@pytest_twisted.ensureDeferred
async def test_bytes_sent_for_a_byte_of_the_peer(agents: Agents, count: int, is_one: bool, most: int) -> None:
    """The shortest candidates that there can be, in the shortest offer: 250 bytes of SDP, 100 of the message."""
    hosts = ["1.2.3.4" if is_one else f"1.2.3.{number}" for number in range(count)]
    candidates = [f"candidate:1 1 udp 1 {host} {5000 + number} typ host" for number, host in enumerate(hosts)]
    received = 350 + sum(len(f"a={text}\r\n") for text in candidates)
    agent, wire = await name_strangers(agents, candidates)

    def all_are_given_up() -> bool:
        return len(agent._check_list) == count and all(pair.state.name == "FAILED" for pair in agent._check_list)

    await until(all_are_given_up, "the end of all checks")
    assert len(wire.sent) >= count if not is_one else wire.sent
    assert all(len(data) <= 116 for data, _ in wire.sent)
    assert wire.bytes_sent <= most * received


@pytest_twisted.ensureDeferred
async def test_checks_that_were_held_back_follow_a_check_of_the_peer(agents: Agents) -> None:
    """However little this end may send, a peer that can reach it is reached."""
    one, two = agents.make(controlling=True), agents.make()
    for agent in (one, two):
        await agents.gather(agent)
    one._budget._to_address[one._protocols[0].id, HOST] = MAX_TO_ADDRESS
    await introduce(one, two)
    started = agents.start(one.connect())
    await until(lambda: one._budget._held, "a check that is held back")
    connecting = [started, agents.start(two.connect())]
    await until(lambda: all(task.done() for task in connecting), "a path")
    assert (one.heard_from, two.heard_from) == (HOST, HOST)
    assert one._budget.spend(one._protocols[0].id, HOST, 0)


@pytest_twisted.ensureDeferred
async def test_nothing_is_heard_from_a_peer_that_does_not_have_the_password(agents: Agents) -> None:
    agent, _ = await name_strangers(agents, [])
    protocol = agent._protocols[0]
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    request.attributes["USERNAME"] = f"{agent.local_username}:{'u' * MAX_FRAGMENT}"
    request.attributes["PRIORITY"] = 1
    request.add_message_integrity(b"wrong")
    protocol.datagram_received(bytes(request), (HOST, 5000))
    assert not agent.heard_from
    request.add_message_integrity(agent.local_password.encode())
    await until(lambda: agent._early_checks_done, "checks")
    protocol.datagram_received(bytes(request), (HOST, 5000))
    assert agent.heard_from == HOST
