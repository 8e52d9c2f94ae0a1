"""Probes of the path MTU as an association sends them."""

from __future__ import annotations

from rtunnel.wire.sctp.chunks import HEARTBEAT, Sack
from rtunnel.wire.sctp.codec import Envelope, heartbeat_information
from rtunnel.wire.sctp.path.mtu import PathMtu
from rtunnel.wire.sctp.scheduler import Message, Scheduler
from rtunnel.wire.sctp.transmitting import Transmitter
from tests.wire.sctp.packets import chunks_of


def probe(transmitter: Transmitter, now: float) -> tuple[int, bytes]:
    """The size of the probe that is sent now, and what it carries."""
    packets: list[bytes] = []
    transmitter.transmit(packets, [], now)
    [packet] = packets
    kind, _, begin, end = next(chunks_of(packet))
    assert kind == HEARTBEAT
    return len(packet), heartbeat_information(packet[begin:end])


def test_a_probe_that_is_acknowledged_proves_its_size() -> None:
    path = PathMtu(1192, 16_000)
    transmitter = Transmitter(Envelope(5000, 5000, 1), path, Scheduler(), lambda: None, 1, 100_000, 0.0)
    size, information = probe(transmitter, 1.0)
    transmitter.probe_acknowledged(information, 1.1)
    assert path.size == size > 1192


def test_what_an_earlier_path_took_says_nothing_of_this_one() -> None:
    path = PathMtu(1192, 16_000)
    transmitter = Transmitter(Envelope(5000, 5000, 1), path, Scheduler(), lambda: None, 1, 100_000, 0.0)
    _, late = probe(transmitter, 1.0)
    transmitter.path_changed(1.1)
    size, information = probe(transmitter, 1.2)
    transmitter.probe_acknowledged(late, 1.3)
    assert path.size == 1192
    transmitter.probe_acknowledged(information, 1.4)
    assert path.size == size


def test_a_full_receiver_is_no_black_hole() -> None:
    """It drops what is sent to find out whether it has room, time and again."""
    path, scheduler = PathMtu(1192, 1400), Scheduler()
    transmitter = Transmitter(Envelope(5000, 5000, 1), path, scheduler, lambda: None, 1, 100_000, 0.0)
    _, information = probe(transmitter, 1.0)
    transmitter.probe_acknowledged(information, 1.1)
    assert path.size == 1400
    scheduler.put(Message(1, 53, bytes(1300), True, None))
    now, sent = 1.2, 0
    for _ in range(20):
        packets: list[bytes] = []
        transmitter.tick(now)
        transmitter.transmit(packets, [], now)
        sent += len(packets)
        transmitter.acknowledged(Sack(0, 0), now + 0.1)
        due = transmitter.next_time()
        assert due is not None
        now = due
        assert path.size == 1400
    assert sent > 10
