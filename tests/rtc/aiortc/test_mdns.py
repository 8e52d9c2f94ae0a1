"""Names in ``.local``: how they are looked up, what counts as an answer, and that there are few questions."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import dns.message
import dns.name
import pytest
import pytest_twisted

from rtunnel.rtc.aiortc import mdns, peer_connection
from rtunnel.rtc.aiortc.mdns import LocalNames
from tests.leftovers import TestLog
from tests.ports import free_port
from tests.reverse.net import HOST, reactor, turns, until
from tests.rtc.aiortc.ice_parts import HIDDEN, Agents, agents, asyncio_tasks, open_sockets, run
from tests.rtc.aiortc.peer_connection_parts import Ends, ends

__all__ = ["agents", "ends"]

A, AAAA, IN, UNIQUE = 1, 28, 1, 0x8001
ADDRESS = socket.inet_aton("192.0.2.7")


def response(name: str, *records: tuple[int, int, bytes], flags: int = 0x8400) -> bytes:
    """A message with these records: type, class, and data."""
    packed = dns.name.from_text(name).to_wire() or b""
    body = b"".join(
        packed + kind.to_bytes(2) + cls.to_bytes(2) + bytes([0, 0, 0, 120]) + len(data).to_bytes(2) + data
        for kind, cls, data in records
    )
    return bytes(2) + flags.to_bytes(2) + bytes(2) + len(records).to_bytes(2) + bytes(4) + body


class Network:
    """Another member of the group, on loopback.

    :ivar asked: the names that others asked for.
    :ivar answers: what it sends when asked for a name.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: Callable[[str], list[bytes]] = lambda name: []
        self._socket, _ = mdns._open([HOST])
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HOST))
        reactor._asyncioEventloop.add_reader(self._socket, self._read)

    def _read(self) -> None:
        data = self._socket.recv(9000)
        if data[4:6] != bytes([0, 1]):
            # An answer. A question is alone in its message: Chromium ignores others.
            return
        (question,) = dns.message.from_wire(data).question
        if question.rdtype != A:
            return
        name = question.name.to_text(omit_final_dot=True)
        self.asked.append(name)
        for answer in self.answers(name):
            self._socket.sendto(answer, (mdns.GROUP, mdns.PORT))

    def close(self) -> None:
        reactor._asyncioEventloop.remove_reader(self._socket)
        self._socket.close()


@pytest.fixture
def network(_nothing_left_behind: TestLog, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    monkeypatch.setattr(mdns, "PORT", free_port())
    monkeypatch.setattr(mdns, "_lookups", mdns.Lookups())
    before = open_sockets()
    made = Network()
    yield made
    made.close()
    assert open_sockets() <= before
    assert not [task for task in asyncio_tasks() if "mdns" in repr(task)]


async def look_up(*names: str, addresses: tuple[str, ...] = (HOST,)) -> list[str | None]:
    local, found = LocalNames(addresses), list[Any]()

    async def all_names() -> None:
        found.extend(await asyncio.gather(*(local.look_up(name) for name in names)))

    await run(all_names())
    await turns(3)
    return found


@pytest.mark.parametrize(
    ("kind", "cls", "data", "expected"),
    [
        (A, UNIQUE, ADDRESS, "192.0.2.7"),
        (A, IN, ADDRESS, "192.0.2.7"),
        (AAAA, UNIQUE, socket.inet_pton(socket.AF_INET6, "fd00::7"), "fd00::7"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_name_that_is_known(network: Network, kind: int, cls: int, data: bytes, expected: str) -> None:
    network.answers = lambda name: [response(name, (kind, cls, data))]
    assert await look_up(HIDDEN) == [expected]
    assert network.asked == [HIDDEN]


@pytest_twisted.ensureDeferred
async def test_an_answer_of_chromium(network: Network) -> None:
    """It ends with a record that there is no other kind of address (NSEC), in which the name is compressed."""
    name = dns.name.from_text(HIDDEN).to_wire() or b""
    nsec = name + bytes.fromhex("002f 8001 00000078 0005 c00c 0001 40")
    answer = bytearray(response(HIDDEN, (A, UNIQUE, ADDRESS)) + nsec)
    answer[11] = 1
    network.answers = lambda name: [bytes(answer)]
    assert await look_up(HIDDEN) == ["192.0.2.7"]


@pytest_twisted.ensureDeferred
async def test_a_name_that_nobody_knows_is_asked_for_twice(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "WAITS", (0.05, 0.05))
    assert await look_up(HIDDEN) == [None]
    await until(lambda: len(network.asked) == 2, "two questions")


@pytest_twisted.ensureDeferred
async def test_what_is_no_answer(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "WAITS", (0.2,))
    good = (A, UNIQUE, ADDRESS)
    network.answers = lambda name: [
        b"",
        b"x",
        bytes(12),
        b"\xff" * 400,
        response(name, good)[:-1],
        response("other.local", good),
        response(name, good, flags=0),
        response(name, (A, 3, ADDRESS)),
        response(name, (A, UNIQUE, ADDRESS[:3])),
        response(name, (AAAA, UNIQUE, ADDRESS)),
        response(name, (16, UNIQUE, b"\x03txt")),
        # A name that points to itself.
        bytes(2) + b"\x84\0\0\0\0\1\0\0\0\0" + b"\xc0\x0c\0\1\x80\1\0\0\0\x78\0\4" + ADDRESS,
    ]
    assert await look_up(HIDDEN) == [None]


@pytest_twisted.ensureDeferred
async def test_an_answer_from_another_port_is_none(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "WAITS", (0.2,))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HOST))

        def answers(name: str) -> list[bytes]:
            stranger.sendto(response(name, (A, UNIQUE, ADDRESS)), (mdns.GROUP, mdns.PORT))
            return []

        network.answers = answers
        assert await look_up(HIDDEN) == [None]
    assert network.asked == [HIDDEN]


@pytest.mark.parametrize("addresses", [(), ("::1",), ("192.0.2.77",)])
@pytest_twisted.ensureDeferred
async def test_other_networks_are_not_asked(
    network: Network, monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...]
) -> None:
    monkeypatch.setattr(mdns, "WAITS", (0.05,))
    network.answers = lambda name: [response(name, (A, UNIQUE, ADDRESS))]
    assert await look_up(HIDDEN, addresses=addresses) == [None]
    assert network.asked == []


def hidden(number: int) -> str:
    """A name as browsers choose them."""
    return f"00000000-0000-4000-8000-{number:012x}.local"


@pytest.mark.parametrize(
    "name",
    [
        "printer.local",
        "a.b.local",
        ".local",
        "local",
        HIDDEN + ".",
        HIDDEN + "\n",
        "x" + HIDDEN,
        "x" * 64 + ".local",
        "x" * 300 + ".local",
        "xn--mnchen-3ya.local",
        "münchen.local",
        "４a1b7c1e-66a3-4d8b-b1ae-7b2f0e35b1a1.local",
        "\\052.local",
        "4a1b7c1e66a34d8bb1ae7b2f0e35b1a1.local",
        HIDDEN.replace(".local", ".LOCAL.example"),
    ],
)
def test_names_that_browsers_do_not_choose_are_not_looked_up(name: str) -> None:
    assert not mdns.is_local_name(name)
    assert mdns.is_local_name(HIDDEN)
    assert mdns.is_local_name(HIDDEN.upper())


@pytest_twisted.ensureDeferred
async def test_the_lookups_of_a_peer_are_few(network: Network) -> None:
    network.answers = lambda name: [response(name, (A, UNIQUE, ADDRESS))]
    names = [hidden(number) for number in range(20)]
    found = await look_up(*names, *names, names[0].upper())
    expected = ["192.0.2.7"] * mdns.MAX_NAMES + [None] * (20 - mdns.MAX_NAMES)
    assert found == [*expected, *expected, "192.0.2.7"]
    assert sorted(network.asked) == names[: mdns.MAX_NAMES]


@pytest_twisted.ensureDeferred
async def test_the_questions_of_all_peers_are_few(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offers with names of which nobody knows any: 100 peers, 800 names."""
    monkeypatch.setattr(mdns, "WAITS", (0.05,))
    monkeypatch.setattr(mdns, "RATE", 0.0)
    monkeypatch.setattr(mdns, "_lookups", mdns.Lookups())
    for peer in range(100):
        await look_up(*(hidden(8 * peer + number) for number in range(8)))
    assert len(network.asked) <= mdns.BURST
    assert len(set(network.asked)) == len(network.asked)


@pytest_twisted.ensureDeferred
async def test_a_name_is_asked_for_once_and_remembered_for_a_while(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.answers = lambda name: [response(name, (A, UNIQUE, ADDRESS))]
    peers = [LocalNames((HOST,)) for _ in range(20)]
    found: list[str | None] = []

    async def ask(peers: list[LocalNames]) -> None:
        found.extend(await asyncio.gather(*(peer.look_up(HIDDEN) for peer in peers)))

    await run(ask(peers))
    await run(ask([LocalNames((HOST,))]))
    assert found == ["192.0.2.7"] * 21
    assert network.asked == [HIDDEN]
    # In another network it may be somebody else's.
    assert await look_up(HIDDEN, addresses=(HOST, "127.0.0.2")) == ["192.0.2.7"]
    monkeypatch.setattr(mdns, "REMEMBER", 0.0)
    monkeypatch.setattr(mdns, "_lookups", mdns.Lookups())
    for _ in range(2):
        assert await look_up(HIDDEN) == ["192.0.2.7"]
    assert network.asked == [HIDDEN] * 4


@pytest_twisted.ensureDeferred
async def test_the_question_that_has_waited_longest_gives_way(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mdns, "WAITS", (1000.0,))
    network.answers = lambda name: [response(name, (A, UNIQUE, ADDRESS))] if name == HIDDEN else []
    peers = [LocalNames((HOST,)) for _ in range(3)]
    strangers = [
        asyncio.ensure_future(peers[number // 8].look_up(hidden(number))) for number in range(mdns.MAX_AT_ONCE)
    ]
    await until(lambda: len(network.asked) == mdns.MAX_AT_ONCE, "questions")
    assert await look_up(HIDDEN) == ["192.0.2.7"]
    await until(strangers[0].done, "the first one's end")
    assert strangers[0].result() is None
    assert not any(task.done() for task in strangers[1:])
    for task in (*strangers, *peers[0].unfinished, *peers[1].unfinished):
        task.cancel()
    await turns(5)


@pytest_twisted.ensureDeferred
async def test_a_peer_that_leaves_takes_no_question_of_another_with_it(network: Network) -> None:
    one, two = LocalNames((HOST,)), LocalNames((HOST,))
    waiting = [asyncio.ensure_future(peer.look_up(HIDDEN)) for peer in (one, two)]
    await until(lambda: network.asked, "a question")
    for task in one.unfinished:
        task.cancel()
    await turns(3)
    network._socket.sendto(response(HIDDEN, (A, UNIQUE, ADDRESS)), (mdns.GROUP, mdns.PORT))
    await until(waiting[1].done, "the other's answer")
    assert waiting[1].result() == "192.0.2.7"
    assert waiting[0].cancelled()
    assert network.asked == [HIDDEN]


@pytest_twisted.ensureDeferred
async def test_only_answers_that_have_the_name_are_parsed(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "WAITS", (0.2,))
    parsed: list[bytes] = []

    def parse(data: bytes, **_: object) -> None:
        parsed.append(data)
        raise RecursionError("or whatever else a parser raises")

    monkeypatch.setattr(dns.message, "from_wire", parse)
    wanted = response(HIDDEN, (A, UNIQUE, ADDRESS))
    question = mdns._Question(HIDDEN)
    for data in (
        b"",
        response(hidden(1), (A, UNIQUE, ADDRESS)),
        response(HIDDEN, (A, UNIQUE, ADDRESS), flags=0),
        wanted + bytes(mdns.MAX_ANSWER),
    ):
        question.datagram_received(data, (HOST, mdns.PORT))
    question.datagram_received(wanted, (HOST, mdns.PORT + 1))
    assert parsed == []
    for _ in range(100):
        question.datagram_received(wanted, (HOST, mdns.PORT))
    assert parsed == [wanted] * mdns.MAX_PARSED
    assert not question.answer.done()


@pytest_twisted.ensureDeferred
async def test_a_network_that_vanishes_is_no_error(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "WAITS", (0.05, 0.05))
    open_ = mdns._open

    def with_another(addresses: tuple[str, ...]) -> tuple[socket.socket, list[str]]:
        handle, joined = open_(addresses)
        # This machine does not have this address any more.
        return handle, ["192.0.2.77", *joined]

    monkeypatch.setattr(mdns, "_open", with_another)
    assert await look_up(HIDDEN) == [None]
    await until(lambda: len(network.asked) == 2, "questions in the other network")


@pytest_twisted.ensureDeferred
async def test_names_are_asked_for_where_addresses_are_offered(agents: Agents) -> None:
    agent = agents.make()
    await agents.gather(agent)
    assert agent._names._addresses == (HOST,)


def test_few_networks_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    handle, joined = mdns._open([HOST] + [f"127.0.0.{number}" for number in range(2, 100)])
    handle.close()
    assert len(joined) <= mdns.MAX_NETWORKS


@pytest_twisted.ensureDeferred
async def test_without_multicast_there_is_no_answer(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_addresses: object) -> None:
        raise OSError("Address already in use")

    monkeypatch.setattr(mdns, "_open", refuse)
    assert await look_up(HIDDEN) == [None]


# As candidates of a peer


def hide(description: str) -> str:
    """Replace the addresses of candidates by names, as browsers do, and let no other candidates follow."""
    return re.sub(r"(a=candidate:\S+ 1 udp \S+) \S+", rf"\1 {HIDDEN}", description) + "a=end-of-candidates\r\n"


@pytest_twisted.ensureDeferred
async def test_a_peer_that_hides_its_address_is_reached(network: Network, ends: Ends) -> None:
    network.answers = lambda name: [response(name, (A, UNIQUE, socket.inet_aton(HOST)))]
    one, two = ends.make(), ends.make()
    one.connection.offer()
    offer = await one.description()
    two.connection.take_offer(hide(offer))
    # The other end knows nothing, and sends no checks.
    answer = re.sub("a=candidate:.*\r\n", "", await two.description())
    one.connection.take_answer(answer)
    await ends.connected(one, two)
    assert network.asked == [HIDDEN]
    # The log shows where it is.
    assert re.search(r" to 127\.0\.0\.1:\d+ \(host\)", two.connection.path)


@pytest_twisted.ensureDeferred
async def test_a_peer_that_hides_where_nobody_finds_it(
    network: Network, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mdns, "WAITS", (0.05,))
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", 0.5)
    one, two = ends.make(), ends.make()
    one.connection.offer()
    two.connection.take_offer(hide(await one.description()))
    assert await two.ends() == (
        "no path to the peer was found within 0 s: none of its candidates can be used "
        "(1 hidden behind a name in .local that nobody in our network knows)"
    )


@pytest_twisted.ensureDeferred
async def test_closed_while_a_name_is_looked_up(network: Network, ends: Ends) -> None:
    one, two = ends.make(), ends.make()
    one.connection.offer()
    two.connection.take_offer(hide(await one.description()))
    await until(lambda: network.asked, "a question")
    await two.connection.close()
