"""Where packets go, and what strangers and a hostile peer can do."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.datagrams import messages
from rtunnel.wire.datagrams.messages import CHALLENGE, DATAGRAM, KNOWN, PIECE, PROBE, RESPONSE, SEEN, encode_number
from rtunnel.wire.datagrams.packets import OVERHEAD
from rtunnel.wire.datagrams.path_mtu import BASE
from tests.wire.datagrams.ends import AWAY, HOME, ID, SERVER, STRANGER, Peer, datagram, number_of, open_server, opened

KINDS = [bytes((kind,)) for kind in (PROBE, SEEN, CHALLENGE, RESPONSE, PIECE)]


# Addresses


def test_a_client_that_moves() -> None:
    network = opened()
    network.home = AWAY
    network.send(network.client, datagram("from away"))
    assert network.got["server"] == [datagram("from away")]
    assert network.server.address == AWAY
    assert network.server.is_open
    network.send(network.server, datagram("to away"))
    assert network.got["client"] == [datagram("to away")]


def test_a_client_that_moves_and_comes_back() -> None:
    network = opened()
    for home in (AWAY, HOME, AWAY, HOME):
        network.home = home
        network.send(network.client, datagram("x"))
        assert network.server.address == home


def test_the_search_for_large_packets_begins_anew_elsewhere() -> None:
    network = opened()
    network.run(5.0)
    assert network.server.mtu.size > BASE
    network.home = AWAY
    network.send(network.client, datagram("x"))
    assert network.server.mtu.size == BASE


def test_an_answer_that_came_the_old_way_says_nothing_about_the_new_one() -> None:
    peer = open_server()
    peer.path.tick(0.0)
    probes = [message[:5] for message, _ in peer.sent() if message[0] == PROBE]
    assert probes
    peer.answer_challenge(AWAY)
    for probe in probes:
        peer.feed(bytes((SEEN,)) + probe[1:], AWAY)
    assert peer.path.mtu.size == BASE


def test_a_challenge_is_answered_from_the_address_that_it_went_to() -> None:
    for source in (HOME, STRANGER):
        peer = open_server()
        peer.feed(encode_number(PROBE, 1), AWAY)
        ((challenge, address), _) = peer.sent()
        assert (challenge[0], address) == (CHALLENGE, AWAY)
        answer = peer.sealer.seal(bytes((RESPONSE,)) + challenge[1:])
        peer.feed(datagram("newer"), AWAY)
        peer.path.receive(answer, source, 0.0)
        assert peer.path.address == HOME
        peer.feed(bytes((RESPONSE,)) + challenge[1:], AWAY)
        assert peer.path.address == AWAY


def test_each_address_has_its_own_challenge() -> None:
    peer = open_server()
    peer.feed(encode_number(PROBE, 1), AWAY)
    ((challenge, _), _) = peer.sent()
    peer.feed(bytes((RESPONSE,)) + challenge[1:], STRANGER)
    peer.feed(bytes((RESPONSE,)) + challenge[1:], AWAY)
    assert peer.path.address == HOME


@pytest.mark.parametrize("changed", [b"", b"\0" * 8, b"too short", b"x" * 9])
def test_a_wrong_answer_to_a_challenge(changed: bytes) -> None:
    peer = Peer(is_server=True)
    peer.feed(bytes((RESPONSE,)) + changed)
    peer.feed(encode_number(PROBE, 1))
    peer.feed(bytes((RESPONSE,)) + changed)
    assert not peer.path.is_open
    assert peer.path.address is None


def test_challenges_are_random() -> None:
    challenges = set()
    for _ in range(20):
        peer = Peer(is_server=True)
        peer.feed(encode_number(PROBE, 1))
        challenges.add(peer.sent()[0][0])
    assert len(challenges) == 20


def test_a_challenge_that_is_lost() -> None:
    """It goes out again, though nothing more may come from there for a while; and not forever."""
    peer = open_server()
    peer.feed(datagram("x"), AWAY)
    sent = []
    for tick in range(20):
        peer.path.tick(tick / 4)
        sent += [message for message, address in peer.sent() if address == AWAY]
    assert len(sent) == 2
    assert len(set(sent)) == 1
    assert 2 * (OVERHEAD + len(sent[0])) <= 3 * (OVERHEAD + len(datagram("x"))) < 3 * (OVERHEAD + len(sent[0]))
    # What comes later pays for more.
    peer.feed(datagram("x"), AWAY, 5.0)
    assert (sent[0], AWAY) in peer.sent()


def test_only_the_newest_packet_shows_a_new_address() -> None:
    """An old one may have been held back by whoever wants the datagrams."""
    peer = open_server()
    old = peer.sealer.seal(datagram("old"))
    peer.feed(datagram("new"))
    assert peer.path.receive(old, STRANGER, 0.0) == datagram("old")
    peer.path.tick(0.0)
    assert all(address == HOME for _, address in peer.sent())


def test_a_recorded_packet_shows_nothing() -> None:
    network = opened()
    network.send(network.client, datagram("x"))
    recorded = [packet for packet, _, address in network.log if address == SERVER]
    for packet in recorded:
        assert network.server.receive(packet, STRANGER, network.now) is None
    network.server.tick(network.now)
    assert all(address == HOME for _, address in network.server.take())
    assert network.server.refused == len(recorded)


def test_the_client_hears_only_the_server() -> None:
    """And what comes from elsewhere changes nothing: the same packet may still come from the server."""
    peer = Peer(is_server=False)
    packet = peer.sealer.seal(datagram("x"))
    assert peer.path.receive(packet, STRANGER, 0.0) is None
    assert peer.path.receive(packet, SERVER, 0.0) == datagram("x")


@pytest.mark.parametrize("size", [OVERHEAD + 1, OVERHEAD + 5, 100, 1200])
def test_amplification(size: int) -> None:
    """An address that has not answered gets at most three times what came from there, whatever that was."""
    for kind in (PROBE, DATAGRAM, CHALLENGE, PIECE):
        peer = open_server()
        received = sent = 0
        for number in range(50):
            peer.feed(encode_number(kind, number).ljust(size - OVERHEAD, b"\0")[: size - OVERHEAD], AWAY, number / 10)
            received += size
            peer.path.send(datagram("to whom?", 1000), number / 10)
            peer.path.tick(number / 10)
            sent += sum(len(packet) for packet, address in peer.path.take() if address == AWAY)
            assert sent <= 3 * received


def test_answers_that_come_when_a_server_has_given_up() -> None:
    """It has no address any more, so it needs the answer to a challenge."""
    peer = open_server()
    peer.path.send(datagram("x"), 0.0)
    probes = []
    for tick in range(20):
        peer.path.tick(tick / 4)
        probes += [message for message, _ in peer.sent() if message[0] == PROBE]
    assert not peer.path.is_open
    for probe in probes:
        peer.feed(bytes((SEEN,)) + probe[1:5], now=5.0)
        assert not peer.path.is_open
    assert peer.path.address is None


def test_many_addresses() -> None:
    peer = open_server()
    for number in range(1000):
        peer.feed(datagram("x"), f"address {number}")
    sent = peer.sent()
    assert len(sent) == 1000
    assert all(message[0] == CHALLENGE for message, _ in sent)
    peer.feed(datagram("x"), HOME)
    peer.path.send(datagram("y"), 0.0)
    assert peer.sent() == [(datagram("y"), HOME)]


# Strangers, and a hostile peer


@given(st.binary(max_size=100), st.booleans(), st.sampled_from([HOME, SERVER, STRANGER]))
def test_a_stranger(data: bytes, is_server: bool, source: str) -> None:
    peer = open_server() if is_server else Peer(is_server=False)
    for packet in (data, ID.to_bytes(4, "big") + data, ID.to_bytes(4, "big") + bytes(8) + data):
        peer.refuses(packet, source)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20),
            st.binary(max_size=80)
            | st.tuples(st.integers(1, 5), st.binary(max_size=40)).map(lambda x: bytes(x[:1]) + x[1]),
            st.sampled_from([HOME, AWAY, SERVER]),
        ),
        max_size=30,
    ),
    st.booleans(),
)
def test_a_hostile_peer(found: list[tuple[int, bytes, str]], is_server: bool) -> None:
    peer = Peer(is_server=is_server)
    peer.survives(found)


@pytest.mark.parametrize("message", [b"", bytes((PROBE,)), bytes((SEEN, 0)), bytes((PIECE,)), bytes((0x0F,)), b"\0"])
def test_malformed_messages(message: bytes) -> None:
    for peer in (open_server(), Peer(is_server=False)):
        assert peer.feed(message) is None
        assert peer.sent() == []


def test_a_piece_of_what_may_not_be_in_pieces() -> None:
    peer = open_server()
    for inner in (PROBE, CHALLENGE, PIECE, 0):
        message = encode_number(inner, 7)
        for index in range(5):
            assert peer.feed(bytes((PIECE, 0, 0, 0, inner, index, 5, message[index]))) is None
    assert peer.sent() == []


def test_messages_of_flows_pass_unread() -> None:
    for kind in (DATAGRAM, messages.FIRST, KNOWN, 0x80, 0xFF):
        assert open_server().feed(bytes((kind,))) == bytes((kind,))


def test_probes_of_the_other_end_are_answered_and_no_more() -> None:
    peer = open_server()
    for size in (5, 1000):
        peer.feed(encode_number(PROBE, 7).ljust(size, b"\0"))
        assert peer.sent() == [(encode_number(SEEN, 7), HOME)]
    peer.feed(bytes((CHALLENGE,)) + bytes(8))
    assert peer.sent() == []


def test_numbers_go_on_after_a_move() -> None:
    """No number is used twice in one direction, whoever the packet is for."""
    network = opened()
    for home in (AWAY, HOME, STRANGER):
        network.home = home
        network.send(network.client, datagram("x"))
        network.send(network.server, datagram("x"))
    for ours in (True, False):
        numbers = [number_of(packet) for packet, _, address in network.log if (address == SERVER) is ours]
        assert numbers == list(range(len(numbers)))
