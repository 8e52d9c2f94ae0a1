"""ICE: which addresses are offered, what servers and strangers can do to it, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import hmac
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from aioice import Candidate, stun
from aioice.ice import CandidatePair
from twisted.internet.defer import Deferred

from rtunnel.rtc.aiortc import addresses as local, ice
from rtunnel.rtc.aiortc.addresses import NoAddress, local_addresses, missing_interfaces, show_interfaces
from rtunnel.rtc.aiortc.bridge import adopt_python_logging, as_deferred
from rtunnel.rtc.aiortc.checks import MAX_REMOTE_CANDIDATES, explain_no_path
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.sdp import UnusableCandidate, parse_candidate
from rtunnel.rtc.aiortc.turn import explain, turn_credentials
from rtunnel.rtc.settings import IceSettings, TurnServer
from tests.leftovers import TestLog
from tests.no_collector import Left, no_collector
from tests.ports import free_port
from tests.reverse.net import HOST, turns, until
from tests.rtc.fakes import log_limiter

LOOPBACK = IceSettings(interfaces=(HOST,))
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


HIDDEN = "4a1b7c1e-66a3-4d8b-b1ae-7b2f0e35b1a1.local"
GOOD = "candidate:1 1 udp 2113937151 192.0.2.1 5000 typ host"


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


class Agents:
    """Agents of one test, each with what it found; they are closed with it."""

    def __init__(self, log: TestLog) -> None:
        adopt_python_logging()
        self.log = log
        self.log_limiter = log_limiter(most=1)
        self.agents: list[IceAgent] = []
        self.found: dict[IceAgent, list[Candidate | None]] = {}
        self._tasks: list[asyncio.Task[Any]] = []

    def make(self, settings: IceSettings = LOOPBACK, controlling: bool = False) -> IceAgent:
        found: list[Candidate | None] = []
        agent = IceAgent(settings, controlling, found.append, self.log_limiter)
        self.agents.append(agent)
        self.found[agent] = found
        return agent

    async def gather(self, agent: IceAgent) -> list[Candidate]:
        await run(agent.gather())
        return agent.local_candidates

    async def pair(self, settings: IceSettings = LOOPBACK) -> tuple[IceAgent, IceAgent]:
        """Two that have a path."""
        one, two = self.make(settings, True), self.make(settings)
        for agent in (one, two):
            await self.gather(agent)
        await introduce(one, two)
        connecting = [self.start(agent.connect()) for agent in (one, two)]
        await until(lambda: all(task.done() for task in connecting), "a path")
        for task in connecting:
            task.result()
        return one, two

    def start(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.append(task)
        return task

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for agent in self.agents:
            await run(agent.close())
        await turns(3)
        for task in self._tasks:
            if not task.cancelled():
                task.exception()


async def run(work: Any) -> None:
    """A coroutine of asyncio's to its end."""
    error: list[BaseException] = []

    async def guarded() -> None:
        try:
            await work
        except Exception as caught:
            error.append(caught)

    await as_deferred(guarded())
    if error:
        raise error[0]


async def introduce(one: IceAgent, two: IceAgent) -> None:
    for agent, other in ((one, two), (two, one)):
        agent.remote_username, agent.remote_password = other.local_username, other.local_password
        for candidate in other.local_candidates:
            await agent.add_remote_candidate(parse_candidate(candidate.to_sdp()))
        await agent.add_remote_candidate(None)


@pytest.fixture
def agents(_nothing_left_behind: TestLog) -> Iterator[Agents]:
    made = Agents(_nothing_left_behind)
    before = open_sockets()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.end()))
    assert open_sockets() <= before, "sockets are left"
    left = [task for task in asyncio_tasks() if "aioice" in repr(task) or "rtunnel" in repr(task)]
    assert not left


def asyncio_tasks() -> set[asyncio.Task[Any]]:
    from twisted.internet import reactor

    return asyncio.all_tasks(reactor._asyncioEventloop)  # type: ignore[attr-defined]


def open_sockets() -> int:
    """UDP sockets of this process."""
    known = set()
    for table in ("udp", "udp6"):
        lines = Path("/proc/net", table).read_text().splitlines()[1:]
        known |= {f"socket:[{line.split()[9]}]" for line in lines}
    count = 0
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            count += str(entry.readlink()) in known
        except OSError:
            continue
    return count


class Silent:
    """A UDP port that takes everything and says nothing."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((HOST, 0))
        self.port: int = self.socket.getsockname()[1]

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    port = Silent()
    yield port
    port.close()


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


async def datagram(handle: socket.socket) -> tuple[bytes, Any]:
    handle.setblocking(False)
    got: list[tuple[bytes, Any]] = []

    def look() -> bool:
        try:
            got.append(handle.recvfrom(2000))
        except BlockingIOError:
            return False
        return True

    await until(look, "a datagram")
    return got[0]


@pytest_twisted.ensureDeferred
async def test_a_stun_server_that_answers_nonsense(agents: Agents, silent: Silent) -> None:
    agent = agents.make(IceSettings(interfaces=(HOST,), stun_server=(HOST, silent.port)))
    await agents.gather(agent)
    request, source = await datagram(silent.socket)
    asked = stun.parse_message(request)
    silent.socket.sendto(b"", source)
    silent.socket.sendto(bytes(stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, asked.transaction_id)), source)
    await until(lambda: agents.found[agent] == [None], "an end of candidates")


# The end, at every moment


@pytest_twisted.ensureDeferred
async def test_closed_before_anything(agents: Agents) -> None:
    await run(agents.make().close())


@pytest.mark.parametrize("steps", range(8))
@pytest_twisted.ensureDeferred
async def test_closed_while_sockets_are_bound(agents: Agents, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_all_addresses", lambda: iter([("lo", f"127.0.0.{number}") for number in range(1, 6)]))
    agent = agents.make(IceSettings(interfaces=("lo",)))
    gathering = agents.start(agent.gather())
    for _ in range(steps):
        await turn()
    gathering.cancel()
    await run(asyncio.wait([gathering]))
    await run(agent.close())
    # The fixture looks for sockets.


async def turn() -> None:
    """One turn of the loop."""
    waiting: Deferred[None] = Deferred()
    asyncio.get_running_loop().call_soon(waiting.callback, None)
    await waiting


@pytest_twisted.ensureDeferred
async def test_closed_while_servers_are_asked(agents: Agents, silent: Silent) -> None:
    server = TurnServer(HOST, silent.port)
    agent = agents.make(IceSettings((HOST, silent.port), (server, server), "u", "p", interfaces=(HOST,)))
    await agents.gather(agent)
    await datagram(silent.socket)
    await run(agent.close())
    assert agents.found[agent] == []


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_of_no_use_is_not_said_for_each_peer(agents: Agents) -> None:
    server = TurnServer(HOST, free_port(), "tcp")
    for _ in range(3):
        agent = agents.make(IceSettings(None, (server,), "u", "p", interfaces=(HOST,)))
        await agents.gather(agent)
        await until(partial(agents.found[agent].__contains__, None), "the end of candidates")
    assert agents.log.text().count(f"TURN server {server} cannot be used") == 1


def test_why_the_system_does_not_let_us_reach_a_server() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('192.0.2.1', 3478)")
    assert explain(refused) == "connection refused"
    assert explain(TimeoutError()) == "no answer"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            (401, "Unauthorized"),
            r"STUN transaction failed \(401 - Unauthorized\); check --turn-user and --turn-credential, ",
        ),
        ((508, "No capacity"), r"STUN transaction failed \(508 - No capacity\)\n"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_why_a_server_is_of_no_use(
    agents: Agents, monkeypatch: pytest.MonkeyPatch, error: tuple[int, str], why: str
) -> None:
    async def refused(*_: object, **__: object) -> None:
        response = stun.Message(stun.Method.ALLOCATE, stun.Class.ERROR)
        response.attributes["ERROR-CODE"] = error
        raise stun.TransactionFailed(response)

    monkeypatch.setattr(ice, "create_turn_endpoint", refused)
    agent = agents.make(IceSettings(None, (TurnServer(HOST, 9),), "u", "p", interfaces=(HOST,)))
    await agents.gather(agent)
    await until(partial(agents.found[agent].__contains__, None), "the end of candidates")
    assert re.search(f"cannot be used: {why}", agents.log.text())


@pytest_twisted.ensureDeferred
async def test_closed_while_names_are_looked_up(agents: Agents) -> None:
    agent = agents.make(IceSettings(interfaces=(HOST,), stun_server=("localhost", 9)))
    await agents.gather(agent)
    await turn()
    await run(agent.close())


@pytest_twisted.ensureDeferred
async def test_closed_while_paths_are_checked(agents: Agents, silent: Silent) -> None:
    agent = agents.make(controlling=True)
    await agents.gather(agent)
    agent.remote_username, agent.remote_password = "abcd", "x" * 22
    for _ in range(3):
        await agent.add_remote_candidate(Candidate("1", 1, "udp", 1, HOST, silent.port, "host"))
    connecting = agents.start(agent.connect())
    await datagram(silent.socket)
    await run(agent.close())
    await until(connecting.done, "the end of the checks")
    assert isinstance(connecting.exception(), ConnectionError)


@pytest_twisted.ensureDeferred
async def test_closed_twice_at_once(agents: Agents) -> None:
    one, _ = await agents.pair()
    first, second = agents.start(one.close()), agents.start(one.close())
    await until(lambda: first.done() and second.done(), "both")
    first.result()
    second.result()


# Strangers


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
    monkeypatch.setattr(ice, "DEAD_AFTER", 2)
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
    monkeypatch.setattr(ice, "DEAD_AFTER", 2)
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
    assert one._silent == 0
