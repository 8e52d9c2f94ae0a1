"""Packets through DTLS over the sockets of ICE: order, content, system calls and callbacks, ends."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted
from aiortc.rtcdtlstransport import RTCCertificate
from OpenSSL import SSL

from rtunnel.relay.udp import segments
from rtunnel.rtc.aiortc import udp_socket
from rtunnel.rtc.aiortc.dtls import MAX_RECORD
from rtunnel.rtc.aiortc.records import SAFE_DATAGRAM
from tests.reverse.net import turns
from tests.rtc.aiortc.ice_parts import agents, run
from tests.rtc.aiortc.path_parts import End, Paths, Socket, arrive, finish, paths

__all__ = ["agents", "paths"]

ALERT, DATA = 21, 23


def packets_of(size: int, count: int) -> list[bytes]:
    return [random.Random(number).randbytes(size) for number in range(count)]


@pytest_twisted.ensureDeferred
async def test_thousands_of_packets_take_few_system_calls(paths: Paths) -> None:
    one, two = await paths.pair()
    burst = packets_of(1191, 100)
    for turn in range(1, 41):
        one.path.send(burst)
        two.path.send(burst)
        await arrive(one, turn * 100)
        await arrive(two, turn * 100)
    assert one.packets == two.packets == 40 * burst
    # Checks of consent: one each 5 s or so.
    assert Socket.calls["sendto"] <= 40
    # A burst does not fit into one call. There may be such checks among what is received, too.
    assert Socket.calls["sendmsg"] == 2 * 2 * 40
    assert Socket.calls["recvmsg_into"] <= 2 * Socket.calls["sendmsg"] + 50
    assert len(one.got) + len(two.got) <= Socket.calls["sendmsg"]


@pytest_twisted.ensureDeferred
async def test_packets_of_all_sizes_in_one_send(paths: Paths) -> None:
    one, two = await paths.pair()
    source = random.Random(19)
    sent = 0
    for _ in range(60):
        sizes = source.choices([1, 50, 51, 1191, 1192, 1400, 9000, MAX_RECORD], k=source.randrange(1, 12))
        packets = [source.randbytes(size) for size in sizes]
        one.path.send(packets)
        sent += len(packets)
        assert (await arrive(two, sent))[-len(packets) :] == packets
    assert not one.too_big
    one.path.send([])


@pytest_twisted.ensureDeferred
async def test_the_largest_packets(paths: Paths) -> None:
    one, two = await paths.pair()
    assert one.path.largest == MAX_RECORD
    packets = packets_of(MAX_RECORD, 8)
    one.path.send(packets)
    assert await arrive(two, 8) == packets
    assert Socket.calls["sendmsg"] == 3


@pytest_twisted.ensureDeferred
async def test_packets_right_behind_the_handshake(paths: Paths) -> None:
    """The client reads them together with the server's last words."""
    one, two = await paths.ready()
    one.greeting, two.greeting = packets_of(1191, 60), packets_of(100, 60)
    await paths.start(one, two)
    assert await arrive(two, 60) == one.greeting
    assert await arrive(one, 60) == two.greeting


@pytest_twisted.ensureDeferred
async def test_a_lost_last_flight_is_sent_again_after_the_handover(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client cannot know that the server is ready. It repeats its own flight, and wants the server's."""
    one, two = await paths.ready()
    one.greeting = [b"data"]
    send, lost = one.dtls.transport._send, []

    async def lose_the_last(data: bytes) -> None:
        if one.dtls.encrypted or data[:1] == b"\x14" or b"\x14\xfe\xfd\x00\x00" in data:
            lost.append(data)
        else:
            await send(data)

    monkeypatch.setattr(one.dtls.transport, "_send", lose_the_last)
    await paths.start(one, two)
    assert lost
    two.path.send([b"hello"])
    assert await arrive(one, 1) == [b"hello"]


@pytest_twisted.ensureDeferred
async def test_the_peer_learns_of_the_end_after_all_packets(paths: Paths) -> None:
    one, two = await paths.pair()
    one.path.send([b"a", b"b"])
    one.path.close()
    one.path.close()
    one.path.send([b"too late"])
    await finish(two.dtls)
    assert two.packets == [b"a", b"b"]
    two.path.send([b"too late"])
    two.path.close()
    await turns()
    assert not one.packets
    # aiortc's way to stop changes nothing any more.
    await run(one.dtls.stop())
    await run(two.dtls.stop())
    await finish(one.dtls)


@pytest_twisted.ensureDeferred
async def test_a_broken_connection_ends(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await paths.pair()

    def broken(*_: Any) -> bytes:
        raise SSL.Error([("SSL routines", "", "internal error")])

    monkeypatch.setattr(two.connection, "recv", broken)
    one.path.send([b"a"])
    await finish(two.dtls)
    # The peer was told.
    await finish(one.dtls)


def wish(end: End) -> memoryview:
    """A datagram with data, and behind it the wish for another handshake."""
    end.connection.send(b"data")
    end.connection.renegotiate()
    with suppress(SSL.WantReadError):
        end.connection.do_handshake()
    return memoryview(end.connection.bio_read(10_000))


@pytest_twisted.ensureDeferred
async def test_a_wish_for_another_handshake_beside_data(paths: Paths) -> None:
    """OpenSSL's answer does not come between the records of one batch."""
    one, two = await paths.pair(RTCCertificate.generateCertificate())
    data = wish(one)
    two.path.take(data, len(data))
    two.path.deliver()
    assert two.packets == [b"data"]
    assert not Socket.calls
    batches = two.path._records.encrypt(packets_of(1191, 10))
    assert [record[0] for record, _ in batches] == [ALERT, *10 * [DATA]]
    assert all(len(record) == size for record, size in batches)


@pytest_twisted.ensureDeferred
async def test_the_answer_is_sent_even_by_an_end_that_sends_nothing(paths: Paths) -> None:
    """Otherwise a peer could fill its memory with answers."""
    one, two = await paths.pair(RTCCertificate.generateCertificate())
    later = [one.path._records.encrypt([b"data"])[0] for _ in range(40)]
    data = wish(one)
    two.path.take(data, len(data))
    for record, size in later:
        two.path.take(memoryview(record), size)
        two.path.deliver()
    assert len(two.packets) == 41
    assert Socket.calls == {"sendto": 1}


@pytest_twisted.ensureDeferred
async def test_garbage_between_records_is_skipped(paths: Paths) -> None:
    one, two = await paths.pair()
    for garbage in (b"\x17", b"\x17" * 100, bytes([23, 254, 253]) + bytes(50), b"\x16\xfe\xfd" + bytes(300)):
        two.path.take(memoryview(garbage), len(garbage))
        two.path.deliver()
    one.path.send([b"data"])
    assert await arrive(two, 1) == [b"data"]


@pytest_twisted.ensureDeferred
async def test_a_path_that_ends_sends_nothing(paths: Paths) -> None:
    one, two = await paths.pair()
    await run(one.agent.close())
    one.path.send([b"x"])
    assert one.path.largest == SAFE_DATAGRAM - one.path.overhead
    one.path.close()
    await turns()
    assert not two.packets


@pytest_twisted.ensureDeferred
async def test_the_path_moves_to_another_agent(paths: Paths) -> None:
    one, two = await paths.pair()
    old = one.agent, two.agent
    new = await paths.agents.pair()
    one.path.use(new[0])
    one.path.send([b"by the new way"])
    assert await arrive(two, 0) == []
    two.path.use(new[1])
    assert await arrive(two, 1) == [b"by the new way"]
    # What is still under way on the old one arrives.
    two.path.use(old[1])
    two.path.send([b"by the old way"])
    assert await arrive(one, 1) == [b"by the old way"]
    await run(old[0].close())
    two.path.use(new[1])
    two.path.send([b"again"])
    assert await arrive(one, 2) == [b"by the old way", b"again"]


@pytest_twisted.ensureDeferred
async def test_records_of_strangers_are_dropped(paths: Paths) -> None:
    one, two = await paths.pair()
    records = one.path._records.encrypt([b"data"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for data, _ in records:
            stranger.sendto(data, two.socket.getsockname())
    one.path.send([b"more"])
    assert await arrive(two, 1) == [b"more"]


def too_large(name: str, size: int) -> OSError | None:
    return OSError(errno.EMSGSIZE, "too large") if name.startswith("send") and size > 1500 else None


def too_large_of_old(name: str, size: int) -> OSError | None:
    error = too_large(name, size)
    return OSError(errno.EINVAL, "invalid") if error and name == "sendmsg" else error


@pytest.mark.parametrize("refuse", [too_large, too_large_of_old])
@pytest_twisted.ensureDeferred
async def test_packets_too_large_for_the_first_link(paths: Paths, refuse: Any) -> None:
    one, two = await paths.pair()
    one.socket.refuse = refuse
    small = packets_of(1191, 20)
    one.path.send([*small, *packets_of(5000, 20), b"last"])
    assert await arrive(two, 21) == [*small, b"last"]
    assert one.too_big == [5000]
    calls = Socket.calls["sendmsg"]
    one.path.send(small)
    await arrive(two, 41)
    assert Socket.calls["sendmsg"] == calls + 1


@pytest_twisted.ensureDeferred
async def test_a_device_that_cannot_send_many_at_once(paths: Paths) -> None:
    one, two = await paths.pair()
    one.socket.refuse = lambda name, _: OSError(errno.EIO, "no checksums") if name == "sendmsg" else None
    packets = packets_of(1191, 100)
    for turn in (1, 2, 3):
        one.path.send(packets)
        assert await arrive(two, turn * 100) == turn * packets
    assert Socket.calls["sendmsg"] == 1
    assert not one.too_big


@pytest_twisted.ensureDeferred
async def test_a_system_that_knows_nothing_of_it(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_UDP_SEGMENT", 9999)
    monkeypatch.setattr(segments, "_UDP_GRO", 9999)
    one, two = await paths.pair()
    packets = packets_of(1191, 100)
    for turn in (1, 2, 3):
        one.path.send(packets)
        assert await arrive(two, turn * 100) == turn * packets
    assert Socket.calls["sendmsg"] == 0
    # Many of them are taken in one wake-up.
    assert len(two.got) < 150


@pytest_twisted.ensureDeferred
async def test_a_full_socket(paths: Paths) -> None:
    one, two = await paths.pair()
    full = True
    one.socket.refuse = lambda name, _: BlockingIOError() if full and name.startswith("send") else None
    first, second = packets_of(1191, 40), packets_of(800, 30)
    one.path.send(first)
    one.path.send(second)
    await turns(3)
    full = False
    assert await arrive(two, 70) == first + second
    one.path.send(first)
    assert await arrive(two, 110) == first + second + first


@pytest_twisted.ensureDeferred
async def test_a_socket_that_stays_full_keeps_little(paths: Paths) -> None:
    one, two = await paths.pair()
    full = True
    one.socket.refuse = lambda name, _: BlockingIOError() if full and name.startswith("send") else None
    for number in range(1000):
        one.path.send([b"%5d" % number * 200] * 5)
    full = False
    got = await arrive(two, 200)
    await turns()
    assert len(got) * 1037 <= udp_socket.MAX_KEPT
    assert got == [b"%5d" % (number // 5) * 200 for number in range(len(got))]


@pytest_twisted.ensureDeferred
async def test_a_network_that_is_down(paths: Paths) -> None:
    one, two = await paths.pair()
    down = True
    one.socket.refuse = lambda name, _: OSError(errno.ENETUNREACH, "down") if down and name.startswith("send") else None
    one.path.send(packets_of(1191, 40))
    one.path.send([b"x"])
    down = False
    packets, calls = packets_of(1191, 40), Socket.calls["sendmsg"]
    one.path.send(packets)
    assert await arrive(two, 40) == packets
    assert Socket.calls["sendmsg"] == calls + 1, "many are still sent at once"
