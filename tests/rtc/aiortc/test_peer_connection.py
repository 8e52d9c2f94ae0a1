"""Peer connections over loopback: how they come about, how they do not, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from aiortc.rtcsctptransport import ReconfigChunk
from twisted.internet.defer import Deferred

from rtunnel.errors import BadDescription
from rtunnel.rtc.aiortc import addresses as local, checks, ice, peer_connection
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.peer_connection import PeerConnection
from rtunnel.rtc.settings import IceSettings, TurnServer
from rtunnel.wire.webrtc.signaling import Candidate
from tests.leftovers import TestLog
from tests.no_collector import Left, no_collector
from tests.patience import PATIENCE
from tests.reverse.net import HOST, reactor, turns, until
from tests.rtc.aiortc.test_ice import open_sockets, turn
from tests.rtc.fakes import FakeChannelUser, FakePeer, log_limiter

LOOPBACK = IceSettings(interfaces=(HOST,))


#: What to look at when there is no path and no TURN server was given.
NO_TURN = "(does UDP get out at both ends? otherwise a TURN server helps, see --turn-server)"


class End:
    """One connection and what it told its user."""

    def __init__(self, settings: IceSettings = LOOPBACK) -> None:
        self.peer = FakePeer()
        self.connection = PeerConnection(settings, self.peer, 50, log_limiter())

    @property
    def told(self) -> list[Any]:
        return [line for line in self.peer.told if line[0] != "candidate"]

    @property
    def candidates(self) -> list[Candidate]:
        return [line[1] for line in self.peer.told if line[0] == "candidate"]  # type: ignore[misc]

    @property
    def lost(self) -> str:
        return next((str(line[1]) for line in self.peer.told if line[0] == "lost"), "")

    async def description(self) -> str:
        await until(lambda: self.told, "a description")
        kind, sdp = self.told[0]
        assert kind in ("offer", "answer"), self.told
        return str(sdp)

    async def ends(self, timeout: float = PATIENCE) -> str:
        await until(lambda: self.lost, "the end", timeout)
        return self.lost


class Ends:
    """Connections that end with the test, and leave nothing."""

    def __init__(self) -> None:
        self.all: list[End] = []

    def make(self, settings: IceSettings = LOOPBACK) -> End:
        self.all.append(End(settings))
        return self.all[-1]

    async def pair(self) -> tuple[End, End]:
        one, two = self.make(), self.make()
        one.connection.offer()
        two.connection.take_offer(await one.description())
        one.connection.take_answer(await two.description())
        await self.connected(one, two)
        return one, two

    @staticmethod
    async def connected(*ends: End) -> None:
        await until(lambda: all(("connected",) in end.told or end.lost for end in ends), "connections")
        assert not any(end.lost for end in ends), [end.lost for end in ends]

    async def end(self) -> None:
        for end in self.all:
            await end.connection.close()
        await turns(3)


@pytest.fixture
def ends(_nothing_left_behind: TestLog) -> Iterator[Ends]:
    before = open_sockets(), handles()
    made = Ends()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.end()))
    assert open_sockets() <= before[0], "sockets are left"
    left = [repr(task) for task in asyncio.all_tasks(reactor._asyncioEventloop) if "wait_for_pid" not in repr(task)]
    assert not left
    assert handles() <= before[1], "timers are left"
    for end in made.all:
        assert sum(line[0] == "lost" for line in end.peer.told) <= 1


def handles() -> set[str]:
    """Timers of asyncio that are ours or the libraries'."""
    scheduled = [handle for handle in reactor._asyncioEventloop._scheduled if not handle.cancelled()]
    return {text for text in map(repr, scheduled) if re.search("aiortc|aioice|rtunnel", text)}


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
    assert one.connection.round_trip > 0
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
    assert len(two.connection._early) == peer_connection.MAX_EARLY_CANDIDATES
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
    with pytest.raises(BadDescription):
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
    monkeypatch.setattr(ice, "DEAD_AFTER", 1)
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


@pytest_twisted.ensureDeferred
async def test_a_peer_that_does_no_dtls_is_given_up(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", 0.5)
    one, two = ends.make(), ends.make()
    monkeypatch.setattr(one.connection._ice, "data_received", lambda *packet: None)
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    assert await two.ends() == (
        "the peer did not answer over the path within 0 s "
        "(DTLS: it sends nothing; it may speak DTLS 1.3 only, and this end speaks 1.2)"
    )
    assert await one.ends()


NOTHING_IN_COMMON = "it has no cipher suite of DTLS 1.2, or no kind of certificate, in common with this end"


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!HH", kind, len(data)) + data


def hello_1_3() -> bytes:
    """A ClientHello for DTLS 1.3 alone (RFC 9147): with its versions, cipher suites and key shares."""
    extensions = (
        extension(43, b"\x02\xfe\xfc"),
        extension(10, b"\x00\x02\x00\x1d"),
        extension(13, b"\x00\x04\x04\x03\x08\x04"),
        extension(51, b"\x00\x24\x00\x1d\x00\x20" + bytes(range(32))),
    )
    length = sum(map(len, extensions))
    suites = b"\x00\x04\x13\x01\x13\x02"
    body = b"\xfe\xfd" + bytes(32) + bytes(2) + suites + b"\x01\x00" + length.to_bytes(2) + b"".join(extensions)
    size = len(body).to_bytes(3)
    return record(22, b"\x01" + size + bytes(5) + size + body)


def record(kind: int, data: bytes) -> bytes:
    """The first plain record of DTLS."""
    return bytes([kind]) + b"\xfe\xfd" + bytes(8) + len(data).to_bytes(2) + data


@pytest.mark.parametrize(
    ("is_server", "says", "why"),
    [
        (
            *(False, hello_1_3()),
            f"{NOTHING_IN_COMMON}; it may speak DTLS 1.3 only, and this end speaks 1.2",
        ),
        (True, record(21, b"\x02\x46"), "it does not speak DTLS 1.2, the only version here"),
        (True, record(21, b"\x02\x28"), NOTHING_IN_COMMON),
        (True, record(21, b"\x02\x50"), "it sent the alert 80"),
    ],
    ids=["client", "server", "server without a suite", "server with a fault"],
)
@pytest_twisted.ensureDeferred
async def test_a_peer_that_speaks_dtls_1_3_only(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, is_server: bool, says: bytes, why: str
) -> None:
    one, two = ends.make(), ends.make()
    (peer, ours) = (one, two) if is_server else (two, one)

    async def handshake(_parameters: object) -> None:
        if is_server:
            await peer.connection._ice.recv()
        await peer.connection._ice.send(says)

    monkeypatch.setattr(peer.connection._dtls, "start", handshake)
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    assert await ours.ends() == f"the DTLS handshake failed: {why}"


@pytest_twisted.ensureDeferred
async def test_a_peer_that_falls_silent_is_dead(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await ends.pair()
    monkeypatch.setattr(ice, "DEAD_AFTER", 1)
    channel, user = one.connection.open_channel("tcp-x"), FakeChannelUser()
    channel.use(user)
    await until(lambda: user.told, "a channel")
    # As if its process was stopped: nothing is received, nothing sent.
    protocol = two.connection._ice._protocols[0]
    monkeypatch.setattr(protocol, "datagram_received", lambda data, addr: None)
    order: list[object] = []
    monkeypatch.setattr(one.peer, "lost", lambda reason: order.extend([list(user.told), reason]))
    await until(lambda: order, "the end")
    assert order == [["opened", "closed"], "the peer no longer answers"]


@pytest_twisted.ensureDeferred
async def test_a_peer_that_breaks_the_protocol_is_cut_off(ends: Ends) -> None:
    one, two = await ends.pair()
    malformed = ReconfigChunk()
    malformed.params.append((13, b""))
    one.connection._sctp._run(one.connection._sctp._send_chunk(malformed))
    assert "the peer broke the protocol: an invalid SCTP packet" in await two.ends()
    assert await one.ends() == "the peer closed the connection"
    await turns(5)
    assert len(two.told) == 3


@pytest_twisted.ensureDeferred
async def test_packets_of_strangers_end_no_connection(ends: Ends) -> None:
    one, two = await ends.pair()
    candidate = one.connection._ice.local_candidates[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for packet in (b"", b"\0", b"\x16", b"\x16\xfe\xfd" + bytes(10), b"\x80" * 50, bytes(1400), b"\x17" * 1400):
            stranger.sendto(packet, (candidate.host, candidate.port))
    channel, user = one.connection.open_channel("tcp-x"), FakeChannelUser()
    channel.use(user)
    await until(lambda: user.told == ["opened"] or one.lost, "a channel")
    await turns(10)
    assert not one.lost
    assert not two.lost


@pytest_twisted.ensureDeferred
async def test_packets_of_strangers_end_no_handshake(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = ends.make(), ends.make()
    start = IceAgent.connect

    async def connect(agent: IceAgent) -> None:
        await start(agent)
        for packet in (b"", b"\0\1", b"\x80" * 50):
            agent._protocols[0].datagram_received(packet, (HOST, 9))

    monkeypatch.setattr(IceAgent, "connect", connect)
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    await ends.connected(one, two)


# Closed at every moment


@pytest_twisted.ensureDeferred
async def test_closed_when_new(ends: Ends) -> None:
    one = ends.make()
    await one.connection.close()
    await one.connection.close()
    one.connection.offer()
    await turns(5)
    assert one.peer.told == []


@pytest.mark.parametrize("offers", [True, False])
@pytest.mark.parametrize("pauses", range(12))
@pytest_twisted.ensureDeferred
async def test_closed_while_it_comes_about(
    ends: Ends, pauses: int, offers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_all_addresses", lambda: iter([("lo", f"127.0.0.{number}") for number in range(1, 4)]))
    settings = IceSettings(interfaces=("lo",))
    one, two = ends.make(settings), ends.make(settings)
    one.connection.offer()
    closing = one if offers else two
    if offers:
        await turns(pauses // 4)
    else:
        two.connection.take_offer(await one.description())
        await turns(pauses)
    closing.connection.take_candidate(Candidate("candidate:1 1 udp 1 127.0.0.1 9 typ host"))
    await closing.connection.close()
    told = len(closing.peer.told)
    await turns(5)
    assert len(closing.peer.told) == told
    assert not closing.lost


@pytest.mark.parametrize("pauses", range(0, 60, 4))
@pytest_twisted.ensureDeferred
async def test_closed_while_both_connect(ends: Ends, pauses: int) -> None:
    one, two = ends.make(), ends.make()
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    await turns(pauses)
    first, second = one.connection.close(), one.connection.close()
    await first
    await second
    assert not one.lost


@pytest.mark.parametrize("pauses", range(4))
@pytest_twisted.ensureDeferred
async def test_closed_in_the_first_turns_with_an_answer(ends: Ends, pauses: int) -> None:
    one, two = ends.make(), ends.make()
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    for _ in range(pauses):
        await turn()
    await one.connection.close()
    assert one.connection._timer is None


def either_is_lost(one: End, two: End) -> bool:
    return bool(one.lost or two.lost)


@pytest_twisted.ensureDeferred
async def test_closed_by_its_user_from_within_an_event(ends: Ends) -> None:
    for moment in ("connected", "channel_arrived", "lost", "has_room"):
        one, two = ends.make(), ends.make()
        peer, listener = two.peer, getattr(two.peer, moment)

        def close(*what: object, two: End = two, listener: Any = listener) -> None:
            listener(*what)
            two.connection.close()

        setattr(peer, moment, close)
        one.connection.offer()
        two.connection.take_offer(await one.description())
        one.connection.take_answer(await two.description())
        if moment in ("channel_arrived", "lost"):
            await ends.connected(one, two)
            one.connection.open_channel("tcp-x").use(FakeChannelUser())
            if moment == "lost":
                await one.connection.close()
        await until(partial(either_is_lost, one, two), moment)
        await two.connection.close()


@pytest_twisted.ensureDeferred
async def test_closing_does_not_wait_for_servers_that_are_silent(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        where = (HOST, silent.getsockname()[1])
        server = TurnServer(*where)
        one = ends.make(IceSettings(where, (server, server), "u", "p", interfaces=(HOST,)))
        one.connection.offer()
        await one.description()
        await turns(5)
        await one.connection.close()


@pytest_twisted.ensureDeferred
async def test_an_end_that_takes_long_goes_on_behind(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "CLOSE_TIMEOUT", 0.05)
    one, two = await ends.pair()
    may_end: asyncio.Future[None] = reactor._asyncioEventloop.create_future()
    close = one.connection._ice.close

    async def slow() -> None:
        await may_end
        await close()

    monkeypatch.setattr(one.connection._ice, "close", slow)
    await one.connection.close()
    assert await two.ends()
    may_end.set_result(None)
    await turns(5)


@pytest_twisted.ensureDeferred
async def test_what_goes_wrong_in_closing_is_logged(ends: Ends, flush_logged_errors: Any) -> None:
    one = ends.make()
    stop = one.connection._dtls.stop

    async def wrong() -> None:
        raise RuntimeError("a mistake")

    one.connection._dtls.stop = wrong  # type: ignore[method-assign]
    await one.connection.close()
    assert len(flush_logged_errors(RuntimeError)) == 1
    await stop()


@pytest_twisted.ensureDeferred
async def test_channels_of_a_connection_that_is_closed_do_nothing(ends: Ends) -> None:
    one, _ = await ends.pair()
    channel, user = one.connection.open_channel("tcp-x"), FakeChannelUser()
    channel.use(user)
    await until(lambda: user.told, "a channel")
    await one.connection.close()
    channel.send(b"x")
    channel.send_text("x")
    channel.close()
    late = one.connection.open_channel("tcp-y")
    late.send(b"x")
    late.close()
    one.connection.hold(5)
    one.connection.release(5)
    one.connection.take_candidate(Candidate(""))
    await turns(5)
    assert user.told == ["opened", "closed"]
    assert one.connection.buffered == 0


@pytest.mark.parametrize("opens", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_connection_goes_at_once(ends: Ends, opens: bool) -> None:
    """OpenSSL's memory and the queues of SCTP are too much to lie until the garbage collector comes."""

    def parts(end: End) -> list[object]:
        connection = end.connection
        return [end, connection, connection._ice, connection._dtls, connection._sctp]

    async def connect() -> Left:
        one, two = await ends.pair() if opens else (ends.make(), ends.make())
        for end in (one, two):
            # As a Peer does.
            end.peer.connection = end.connection  # type: ignore[attr-defined]
        left = Left([*parts(one), *parts(two)])
        if opens:
            channel = one.connection.open_channel("tcp-x", "web")
            channel.send(bytes(100_000))
            await until(lambda: two.peer.arrived, "a channel")
        else:
            one.connection.offer()
            await one.description()
        await one.connection.close()
        await two.connection.close()
        ends.all.clear()
        return left

    with no_collector():
        left = await connect()
        await turns()
        assert not left()
