"""ICE: which addresses are offered, what servers and strangers can do to it, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import socket
from typing import Any

import pytest
import pytest_twisted
from aioice import stun

from rtunnel.rtc.aiortc import addresses as local, ice
from rtunnel.rtc.aiortc.addresses import NoAddress, local_addresses, missing_interfaces, show_interfaces
from rtunnel.rtc.aiortc.checks import explain_no_path
from rtunnel.rtc.aiortc.sdp import UnusableCandidate, parse_candidate
from rtunnel.rtc.aiortc.turn import turn_credentials
from rtunnel.rtc.settings import IceSettings
from tests.reverse.net import HOST, until
from tests.rtc.aiortc.ice_parts import GOOD, HIDDEN, Agents, Silent, agents, datagram, introduce, run, silent

__all__ = ["agents", "silent"]


ADDRESSES = [
    ("lo", "127.0.0.1"),
    ("lo", "::1"),
    ("eth0", "192.0.2.5"),
    ("eth0", "2001:db8::5"),
    ("wlan0", "10.1.2.3"),
    ("wlan0", "169.254.7.7"),
    ("wlan0", "fe80::5"),
    ("br0", "192.0.2.5"),
]


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_all_addresses", lambda: iter(ADDRESSES))


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize(
    ("interfaces", "expected"),
    [
        ((), ["192.0.2.5", "2001:db8::5", "10.1.2.3"]),
        (("eth0",), ["192.0.2.5", "2001:db8::5"]),
        (("lo",), ["127.0.0.1", "::1"]),
        (("127.0.0.1",), ["127.0.0.1"]),
        (("127.0.0.0/8", "::1"), ["127.0.0.1", "::1"]),
        (("10.0.0.0/8",), ["10.1.2.3"]),
        (("10.1.2.9/8",), ["10.1.2.3"]),
        (("2001:db8::/32", "wlan0"), ["2001:db8::5", "10.1.2.3", "169.254.7.7", "fe80::5"]),
        (("0.0.0.0/0",), ["127.0.0.1", "192.0.2.5", "10.1.2.3", "169.254.7.7"]),
        (("eth", "eth00", "192.0.2", "nonsense/7", "192.0.2.6"), []),
    ],
)
def test_addresses_that_may_be_offered(interfaces: tuple[str, ...], expected: list[str]) -> None:
    assert local_addresses(interfaces) == expected


@pytest.mark.usefixtures("several")
def test_the_addresses_of_the_default_route_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_default_addresses", lambda: ["2001:db8::5", "10.1.2.3", "203.0.113.9"])
    assert local_addresses(()) == ["2001:db8::5", "10.1.2.3", "192.0.2.5"]
    assert local_addresses(("eth0",)) == ["2001:db8::5", "192.0.2.5"]


@pytest.mark.usefixtures("several")
def test_interfaces_that_this_machine_lacks() -> None:
    asked = ("eth0", "eth7", "10.0.0.0/8", "10.1.2.3", "10.1.2.4", "192.168.0.0/16")
    assert missing_interfaces(asked) == ["eth7", "10.1.2.4", "192.168.0.0/16"]
    assert show_interfaces() == "lo (127.0.0.1), eth0 (192.0.2.5), wlan0 (10.1.2.3), br0 (192.0.2.5)"


def test_loopback_is_found_on_this_machine() -> None:
    assert local_addresses((HOST,)) == [HOST]
    assert HOST not in local_addresses(())


def test_turn_credentials_as_they_are_configured() -> None:
    assert turn_credentials(IceSettings(turn_user="u", turn_credential="c"), 5.0) == ("u", "c")
    assert turn_credentials(IceSettings(), 5.0) == ("", "")


@pytest.mark.parametrize(("name", "user"), [("joe", "1000086400:joe"), ("", "1000086400")])
def test_turn_credentials_from_the_secret(name: str, user: str) -> None:
    found, password = turn_credentials(IceSettings(turn_secret="north", turn_user=name), 1000000000.9)
    assert found == user
    assert base64.b64decode(password) == hmac.digest(b"north", user.encode(), hashlib.sha1)


def test_turn_credentials_of_a_known_example() -> None:
    # openssl dgst -sha1 -hmac north, over "86400:joe".
    _, password = turn_credentials(IceSettings(turn_secret="north", turn_user="joe"), 0)
    assert password == base64.b64encode(hmac.new(b"north", b"86400:joe", "sha1").digest()).decode()


def test_candidates_of_real_peers() -> None:
    chrome = parse_candidate(GOOD + " generation 0 ufrag EsAw network-cost 999")
    assert (chrome.host, chrome.port, chrome.type, chrome.generation) == ("192.0.2.1", 5000, "host", 0)
    reflexive = parse_candidate("a=candidate:2 1 UDP 1 198.51.100.1 9 typ srflx raddr 0.0.0.0 rport 0")
    assert reflexive.related_address == "0.0.0.0"
    assert parse_candidate(GOOD.removeprefix("candidate:")).port == 5000
    hidden = parse_candidate(GOOD.replace("192.0.2.1", HIDDEN))
    assert hidden.host == HIDDEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "candidate:",
        "candidate",
        "x",
        " " * 1000,
        "\0\n\r",
        "candidate:1 1 udp",
        GOOD.replace("5000", "0"),
        GOOD.replace("5000", "65536"),
        GOOD.replace("5000", "-1"),
        GOOD.replace("5000", "x"),
        GOOD.replace("5000", "9" * 5000),
        GOOD.replace("udp", "tcp"),
        GOOD.replace(" 1 udp", " 2 udp"),
        GOOD.replace(" 1 udp", " 0 udp"),
        GOOD.replace("2113937151", "much"),
        GOOD.replace("192.0.2.1", "host.example.org"),
        GOOD.replace("192.0.2.1", "a.b.local"),
        GOOD.replace("typ host", "typ strange"),
        GOOD + " generation x",
        GOOD + " raddr 1.2.3.4 rport x",
    ],
)
def test_candidates_that_are_none(text: str) -> None:
    with pytest.raises(UnusableCandidate):
        parse_candidate(text)


@pytest.mark.parametrize(
    ("pairs", "accepted", "unusable", "hint"),
    [
        (1, 1, {"over TCP": 7}, ""),
        (100, 64, {}, ""),
        (1024, 32, {}, ", with 1,024 pairs of addresses; choose which are offered with --ice-interface, at both ends"),
        (0, 0, {}, ": it offers no address"),
        (0, 0, {"over TCP": 2, "malformed": 1}, ": none of its candidates can be used (2 over TCP, 1 malformed)"),
        (
            *(0, 3, {"over TCP": 1}),
            ": none of its candidates can be used (1 over TCP, 3 of an IP version of which this end has no address)",
        ),
    ],
)
def test_why_there_is_no_path(pairs: int, accepted: int, unusable: dict[str, int], hint: str) -> None:
    assert explain_no_path(pairs, accepted, unusable) == hint


@pytest_twisted.ensureDeferred
async def test_a_path_is_found_and_described(agents: Agents) -> None:
    one, two = await agents.pair()
    assert one.path.startswith("direct, 127.0.0.1:")
    assert one.path.endswith("(host)")
    assert agents.found == {one: [None], two: [None]}
    await run(one.send(b"\x20 dtls"))
    await until(two._queue.qsize, "a packet")


@pytest_twisted.ensureDeferred
async def test_no_address_that_fits(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoAddress, match=r"no address of this machine fits --ice-interface nowhere; it has .*lo \(127"):
        await agents.gather(agents.make(IceSettings(interfaces=("nowhere",))))
    monkeypatch.setattr(local, "_all_addresses", lambda: iter([("lo", HOST)]))
    with pytest.raises(NoAddress, match=r"add --ice-interface 127\.0\.0\.1"):
        await agents.gather(agents.make(IceSettings()))


def many_addresses(monkeypatch: pytest.MonkeyPatch, count: int, *first: str) -> None:
    """Let this machine have so many addresses, the default route at those named."""
    monkeypatch.setattr(
        local, "_all_addresses", lambda: (("lo", f"127.0.0.{number}") for number in range(1, count + 1))
    )
    monkeypatch.setattr(local, "_default_addresses", lambda: list(first))


@pytest_twisted.ensureDeferred
async def test_of_many_addresses_that_of_the_default_route_is_tried_first(
    agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = agents.make(IceSettings(interfaces=("lo",)), True), agents.make(IceSettings(interfaces=("lo",)))
    many_addresses(monkeypatch, 32, "127.0.0.20")
    await agents.gather(one)
    many_addresses(monkeypatch, 32, "127.0.0.30")
    await agents.gather(two)
    assert len({candidate.priority for candidate in one.local_candidates}) == 32
    await introduce(one, two)
    connecting = agents.start(one.connect())
    await until(lambda: one._check_list, "pairs")
    assert len(one._check_list) == 1024
    first = one._check_list[0]
    assert (first.local_addr[0], first.remote_addr[0]) == ("127.0.0.20", "127.0.0.30")
    assert one.checks_take == 1024 * 0.005
    request = one.build_request(first, False)
    assert request.attributes["PRIORITY"] == 110 << 24 | 65535 << 8 | 255
    await run(one.close())
    await until(connecting.done, "the end of the checks")


@pytest_twisted.ensureDeferred
async def test_more_addresses_than_peers_accept(
    agents: Agents, monkeypatch: pytest.MonkeyPatch, silent: Silent
) -> None:
    many_addresses(monkeypatch, local.MAX_ADDRESSES + 2, "127.0.0.50")
    agent = agents.make(IceSettings((HOST, silent.port), interfaces=("lo",)))
    found = await agents.gather(agent)
    assert [candidate.host for candidate in found][::47] == ["127.0.0.50", "127.0.0.47"]
    assert "of 50 addresses of this machine only 48 are offered; choose them with --ice-interface" in agents.log.text()
    asked = {(await datagram(silent.socket))[1] for _ in range(ice.MAX_REFLEXIVE)}
    assert asked == {(candidate.host, candidate.port) for candidate in found[: ice.MAX_REFLEXIVE]}


@pytest_twisted.ensureDeferred
async def test_an_address_that_cannot_be_bound_is_left_out(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_all_addresses", lambda: iter([("x", "192.0.2.77"), ("lo", HOST)]))
    found = await agents.gather(agents.make(IceSettings(interfaces=("x", HOST))))
    assert [candidate.host for candidate in found] == [HOST]


@pytest_twisted.ensureDeferred
async def test_a_stun_server_that_does_not_answer(
    agents: Agents, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ice, "SERVER_TIMEOUT", 0.2)
    agent = agents.make(IceSettings(interfaces=(HOST,), stun_server=(HOST, silent.port)))
    assert len(await agents.gather(agent)) == 1
    assert agents.found[agent] == []
    await until(lambda: agents.found[agent], "an end of candidates")
    assert agents.found[agent] == [None]


@pytest.mark.parametrize("server", [("no.such.host.invalid", 3478), ("x" * 70 + ".invalid", 3478)])
@pytest_twisted.ensureDeferred
async def test_a_stun_server_that_cannot_be(agents: Agents, server: tuple[str, int]) -> None:
    agent = agents.make(IceSettings(interfaces=(HOST,), stun_server=server))
    await agents.gather(agent)
    agent_found = agents.found[agent]
    await until(lambda: agent_found == [None], "an end of candidates")


@pytest.mark.parametrize("host", [HOST, "stun.example"])
@pytest_twisted.ensureDeferred
async def test_an_address_seen_by_a_stun_server_follows(
    agents: Agents, silent: Silent, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(name: str, port: int, **_more: int) -> list[Any]:
        assert name == host
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", (HOST, port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    agent = agents.make(IceSettings(interfaces=(HOST,), stun_server=(host, silent.port)))
    await agents.gather(agent)
    request, source = await datagram(silent.socket)
    asked = stun.parse_message(request)
    answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, asked.transaction_id)
    answer.attributes["XOR-MAPPED-ADDRESS"] = ("198.51.100.7", 4242)
    silent.socket.sendto(bytes(answer), source)
    await until(lambda: len(agents.found[agent]) == 2, "a candidate")
    candidate, end = agents.found[agent]
    assert end is None
    assert candidate is not None
    assert (candidate.type, candidate.host, candidate.port) == ("srflx", "198.51.100.7", 4242)


@pytest_twisted.ensureDeferred
async def test_a_stun_server_that_answers_nonsense(agents: Agents, silent: Silent) -> None:
    agent = agents.make(IceSettings(interfaces=(HOST,), stun_server=(HOST, silent.port)))
    await agents.gather(agent)
    request, source = await datagram(silent.socket)
    asked = stun.parse_message(request)
    silent.socket.sendto(b"", source)
    silent.socket.sendto(bytes(stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, asked.transaction_id)), source)
    await until(lambda: agents.found[agent] == [None], "an end of candidates")
