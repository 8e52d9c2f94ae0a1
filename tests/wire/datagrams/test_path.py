"""A path opens when packets get through both ways, and closes when they do not; and it carries all sizes."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from rtunnel.wire.data.seal import Cipher
from rtunnel.wire.datagrams.messages import DATAGRAM, SEEN, encode_number
from rtunnel.wire.datagrams.packets import OVERHEAD
from rtunnel.wire.datagrams.path import KEEPALIVE, MOST_RETRY
from rtunnel.wire.datagrams.path_mtu import BASE, CONFIRM_EVERY
from tests.wire.datagrams.ends import (
    HOME,
    SERVER,
    Network,
    Packet,
    Peer,
    datagram,
    make_client,
    make_server,
    open_server,
    opened,
)


def from_client(packet: Packet) -> bool:
    return packet[2] == SERVER


def from_server(packet: Packet) -> bool:
    return packet[1] == SERVER


def nothing(packet: Packet) -> bool:
    return False


def anything(packet: Packet) -> bool:
    return True


# Opening


@pytest.mark.parametrize("cipher", [Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305])
def test_opening(cipher: Cipher) -> None:
    network = Network(cipher)
    network.tick()
    assert len(network.log) == 1  # the server says nothing
    assert len(network.log[0][0]) == BASE
    network.settle()
    assert network.states() == {True}
    assert network.server.address == HOME
    network.send(network.client, datagram("to the server"))
    network.send(network.server, datagram("to the client"))
    assert network.got == {"server": [datagram("to the server")], "client": [datagram("to the client")]}


@pytest.mark.parametrize("lost", [from_client, from_server])
def test_packets_that_get_through_one_way_open_nothing(lost) -> None:
    network = Network()
    network.passes = lambda packet: not lost(packet)
    network.run(20.0)
    assert network.states() == {False}


def test_datagrams_do_not_open_a_path() -> None:
    """They say nothing about the way back."""
    server, client = Peer(is_server=True), Peer(is_server=False)
    for peer in (server, client):
        assert peer.feed(datagram("x")) == datagram("x")
        assert not peer.path.is_open
    assert server.path.address is None


def test_retries_become_rarer() -> None:
    client = make_client()
    times = []
    for tick in range(4 * 200):
        client.tick(tick / 4)
        times += [tick / 4 for _ in client.take()]
    assert times[:6] == [0, 0.25, 0.75, 1.75, 3.75, 7.75]
    assert times[-1] - times[-2] == MOST_RETRY
    network = Network()
    network.passes = nothing
    network.run(100.0)
    network.passes = anything
    network.run(MOST_RETRY + 0.25)
    assert network.states() == {True}
    # And the next time they begin anew.
    network.passes = nothing
    network.send(network.client, datagram("x"))
    network.run(5.0)
    network.passes = anything
    network.run(3.0)
    assert network.states() == {True}


def test_probes_that_nobody_answers_are_forgotten() -> None:
    client = make_client()
    for tick in range(200):
        client.tick(tick * MOST_RETRY)
        assert len(client._probes) <= 64


def test_a_server_that_knows_nobody_sends_nothing() -> None:
    server = make_server()
    server.send(datagram("x"), 0.0)
    server.tick(0.0)
    assert server.take() == []


# Life


@pytest.mark.parametrize("idle", [0.0, 100.0])
@pytest.mark.parametrize("lost", [nothing, from_client, from_server])
@pytest.mark.parametrize("who", ["client", "server"])
def test_closing(who: str, lost, idle: float) -> None:
    """An end that sends finds out within 4 s, also if only one direction is broken."""
    network = opened()
    network.run(idle)
    path = network.client if who == "client" else network.server
    network.passes = (lambda packet: False) if lost is nothing else lambda packet: not lost(packet)
    network.send(path, datagram("x"))
    states = []
    for seconds in (3.5, 1.0):
        network.run(seconds)
        states.append(path.is_open)
    assert states == [True, False]
    # The other one, too, as soon as it sends or has been silent for a while.
    network.run(KEEPALIVE + 5.0)
    assert network.states() == {False}
    network.passes = anything
    network.run(MOST_RETRY + 0.25)
    assert network.states() == {True}


def test_a_path_that_is_looked_at_once_a_second() -> None:
    network = opened()
    network.passes = nothing
    network.send(network.client, datagram("x"))
    network.run(6.0, step=1.0)
    assert not network.client.is_open


def test_time_in_which_the_process_was_stopped() -> None:
    network = opened()
    for stops in range(1, 4):
        network.send(network.client, datagram("x"))
        network.now += 1.0
        # It asks, and is stopped before it reads the answer; perhaps again.
        for _ in range(stops):
            network.client.tick(network.now)
            network.now += 100.0
        assert network.client.is_open
        network.settle()
        network.tick()
        assert network.client.is_open
        network.run(1.0)


def test_a_path_that_loses_a_fifth_each_way_stays_open() -> None:
    network = opened()
    chance = Random(1)
    network.passes = lambda packet: chance.random() >= 0.2
    for _ in range(1000):
        network.send(network.client, datagram("x"))
        network.send(network.server, datagram("x"))
        network.run(0.25)
        assert network.states() == {True}


def test_keepalive() -> None:
    """Each way, so that a NAT keeps the mapping and each end knows; and hardly more than that."""
    network = opened()
    network.run(30.0)
    network.log.clear()
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(400):
        before = len(network.log)
        network.run(0.25)
        for packet in network.log[before:]:
            times[from_client(packet)].append(network.now)
    for way in times.values():
        assert all(later - earlier <= KEEPALIVE + 1 for earlier, later in pairwise(way))
        assert len(way) <= 40


def test_answers_only_to_own_probes_count() -> None:
    for is_server in (True, False):
        peer = open_server() if is_server else Peer(is_server=False)
        closed_at = 0.0
        for tick in range(200):
            now = tick / 4
            peer.path.send(datagram("x"), now)
            peer.path.tick(now)
            peer.path.take()
            peer.feed(encode_number(SEEN, 2**32 - 1 - tick), now=now)
            peer.feed(datagram("x"), now=now)
            if not peer.path.is_open:
                closed_at = now
                break
        assert closed_at <= 4.25


# Sizes


@pytest.mark.parametrize("size", [6, BASE - OVERHEAD, BASE - OVERHEAD + 1, 5000, 65507])
def test_messages_of_all_sizes(size: int) -> None:
    network = Network()
    network.mtu = 1300
    network.open()
    network.run(5.0)
    message = datagram("x", size)
    network.send(network.client, message)
    network.send(network.server, message)
    assert network.got == {"client": [message], "server": [message]}
    assert all(path.held == 0 for path in (network.client, network.server))


def test_pieces_have_different_ids() -> None:
    network = opened()
    sent = [encode_number(DATAGRAM, 1, letter * 3000) for letter in (b"a", b"b")]
    for message in sent:
        network.client.send(message, network.now)
    network.collect()
    network.flying = network.flying[::2] + network.flying[1::2]
    network.settle()
    assert sorted(network.got["server"]) == sent


def test_a_message_that_no_packets_carry_is_lost() -> None:
    network = opened()
    network.client.send(bytes((DATAGRAM,)) * 80000, network.now)
    assert network.client.lost == 1
    assert network.client.take() == []


def test_a_black_hole() -> None:
    network = opened()
    network.run(5.0)
    assert network.client.mtu.size == 65507
    network.mtu = 1300
    network.run(CONFIRM_EVERY + 5.0)
    network.send(network.client, datagram("x", 3000))
    assert network.got["server"] == [datagram("x", 3000)]
    assert network.client.mtu.size == network.server.mtu.size == 1280
    assert network.states() == {True}


def test_a_black_hole_in_use() -> None:
    """Whoever sends large packets soon learns that they are lost; small ones are no reason to look."""
    network = opened()
    network.run(3.0)
    network.send(network.client, datagram("x", 3000))
    network.run(2.0)
    network.log.clear()
    for _ in range(3):
        network.send(network.client, datagram("x", 1000))
        network.run(1.0)
    assert all(len(packet) < 2000 for packet, _, _ in network.log)
    network.mtu = 1300
    for _ in range(5):
        network.send(network.client, datagram("lost", 3000))
        network.run(1.0)
    network.send(network.client, datagram("x", 3000))
    assert network.got["server"][-1] == datagram("x", 3000)
    assert network.client.mtu.size == 1280


def test_an_interface_that_becomes_smaller() -> None:
    network = opened()
    network.run(5.0)
    network.interface = 1400
    network.send(network.client, datagram("lost", 1500))
    assert network.got["server"] == []
    network.send(network.client, datagram("x", 1500))
    assert network.got["server"] == [datagram("x", 1500)]
    network.run(5.0)
    assert network.client.mtu.size == 1372
