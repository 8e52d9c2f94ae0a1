"""The lab is what it claims to be: its NATs are of their kind, and ICE finds through them what it should find."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import select
import socket
import subprocess
import time
from pathlib import Path

import aioice
import pytest
from aioice import stun

from tests.nat.lab import SECOND_SERVER, SERVER, STUN_PORT, Lab, NatKind, long_term, shared_secret
from tests.patience import PATIENCE
from tests.process.harness import Twistds, need, poll
from tests.process.services import Background

Address = tuple[str, int]

USER = "user"
PASSWORD = "a password"
SECRET = "a secret"
RETRANSMIT = 0.5
"""Seconds until a STUN request is sent again."""


def mapped(probe: socket.socket, server: str) -> Address:
    """How a STUN server sees this socket. Requests are repeated, as datagrams get lost (RFC 8489, section 6.2.1)."""
    request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    for _ in range(int(PATIENCE / RETRANSMIT)):
        probe.sendto(bytes(request), (server, STUN_PORT))
        while select.select([probe], [], [], RETRANSMIT)[0]:
            answer = stun.parse_message(probe.recv(2048))
            if answer.transaction_id == request.transaction_id:
                address: Address = answer.attributes["XOR-MAPPED-ADDRESS"]
                return address
    raise TimeoutError(f"no STUN server answers at {server}")


def heard(sock: socket.socket) -> bytes:
    """The next datagram that is no further answer to a request that :func:`mapped` has repeated."""
    while True:
        data, (_, port) = sock.recvfrom(2048)
        if port != STUN_PORT:
            return data


def kernel_state() -> tuple[str, str, str]:
    """What the lab might leave behind, or change, in the network that the tests run in."""

    def ip(*command: str) -> str:
        return subprocess.run([need("ip"), *command], capture_output=True, check=True, text=True).stdout

    return ip("-brief", "link"), ip("netns", "list"), Path("/proc/sys/net/ipv4/ip_forward").read_text()


def test_the_lab_leaves_the_machine_as_it_was(lab: Lab) -> None:
    before = kernel_state()
    another = Lab()
    with another.nat1.inside():
        assert kernel_state() != before
    assert kernel_state() == before
    another.close()
    assert kernel_state() == before


def test_a_home_router_keeps_the_port_for_all_destinations(lab: Lab, twistd: Twistds) -> None:
    lab.start_turn(twistd)
    with lab.lan1.udp_socket() as probe:
        first = mapped(probe, SERVER)
        assert first == (lab.nat1.address, probe.getsockname()[1])
        assert mapped(probe, SECOND_SERVER) == first


def test_a_symmetric_nat_takes_another_port_for_each_destination(lab: Lab, twistd: Twistds) -> None:
    lab.start_turn(twistd)
    lab.nat1.behave("symmetric")
    with lab.lan1.udp_socket() as probe:
        first, second = mapped(probe, SERVER), mapped(probe, SECOND_SERVER)
        assert first[0] == second[0] == lab.nat1.address
        assert first[1] != second[1]
        assert mapped(probe, SERVER) == first


def test_what_comes_unasked_is_dropped_and_punches_no_hole(lab: Lab, twistd: Twistds) -> None:
    lab.start_turn(twistd)
    with lab.lan1.udp_socket() as ours, lab.lan2.udp_socket() as theirs:
        here, there = mapped(ours, SERVER), mapped(theirs, SERVER)
        ours.sendto(b"too early", there)
        theirs.sendto(b"let in", here)
        assert heard(ours) == b"let in"
        ours.sendto(b"answer", there)
        assert heard(theirs) == b"answer"


def test_with_its_address_a_nat_loses_its_mappings(lab: Lab, twistd: Twistds) -> None:
    lab.start_turn(twistd)
    with lab.lan2.udp_socket() as probe:
        before = mapped(probe, SERVER)
        lab.nat2.change_address("203.0.113.77")
        # The kernel drops the mappings of an address that is gone in its own time.
        after = poll(
            lambda: address if (address := mapped(probe, SERVER)) != before else None, PATIENCE, "a new address"
        )
        assert after == ("203.0.113.77", probe.getsockname()[1])


def test_what_is_lost_is_lost_both_ways(lab: Lab) -> None:
    lab.lose_udp(50)
    with lab.lan1.udp_socket() as ours, lab.servers.udp_socket() as theirs:
        for _ in range(200):
            ours.sendto(b"there", (SERVER, theirs.getsockname()[1]))
        here = theirs.recvfrom(100)[1]
        theirs.settimeout(0.5)
        arrived = 1 + count(theirs)
        assert 50 < arrived < 150
        for _ in range(200):
            theirs.sendto(b"and back", here)
        ours.settimeout(0.5)
        assert 50 < count(ours) < 150


def count(receiver: socket.socket) -> int:
    """How many datagrams there are."""
    datagrams = 0
    try:
        while receiver.recv(100):
            datagrams += 1
    except TimeoutError:
        pass
    return datagrams


def time_limited(secret: str) -> tuple[str, str]:
    """User and password, as TURN servers make them of a shared secret (draft-uberti-behave-turn-rest)."""
    user = f"{int(time.time()) + 600}:{USER}"
    return user, base64.b64encode(hmac.digest(secret.encode(), user.encode(), hashlib.sha1)).decode()


async def ice_types(lab: Lab, turn: tuple[str, str] | None, transport: str) -> set[str]:
    """Connect lan1 and lan2 by ICE, exchange a message each way; the types of the candidates of the pair in use.

    :raises ConnectionError: there is no way.
    """
    user, password = turn or (None, None)
    ends = []
    for controlling, machine in ((True, lab.lan2), (False, lab.lan1)):
        end = aioice.Connection(
            ice_controlling=controlling,
            stun_server=None if turn else (SERVER, STUN_PORT),
            turn_server=(SERVER, STUN_PORT) if turn else None,
            turn_username=user,
            turn_password=password,
            turn_transport=transport,
        )
        # All sockets are made here; later on it does not matter where this thread is.
        with machine.inside():
            await end.gather_candidates()
        ends.append(end)
    client, host = ends
    try:
        for end, other in ((client, host), (host, client)):
            for candidate in other.local_candidates:
                await end.add_remote_candidate(candidate)
            await end.add_remote_candidate(None)
            end.remote_username, end.remote_password = other.local_username, other.local_password
        await asyncio.gather(client.connect(), host.connect())
        await client.send(b"there")
        assert await host.recv() == b"there"
        await host.send(b"and back")
        assert await client.recv() == b"and back"
        pair = client._nominated[1]
        return {pair.local_candidate.type, pair.remote_candidate.type}
    finally:
        for end in ends:
            await end.close()


def connect(lab: Lab, kinds: tuple[NatKind, NatKind], turn: tuple[str, str] | None, transport: str = "udp") -> set[str]:
    """:func:`ice_types`, with a loop and a thread of its own."""
    lab.nat1.behave(kinds[0])
    lab.nat2.behave(kinds[1])
    types = Background(lambda: asyncio.run(ice_types(lab, turn, transport))).join()
    assert isinstance(types, set)
    return types


def test_ice_connects_directly_through_two_home_routers(lab: Lab, twistd: Twistds) -> None:
    lab.start_turn(twistd)
    assert connect(lab, ("home", "home"), None) in ({"host", "srflx"}, {"host", "prflx"})


def test_ice_finds_no_way_through_two_symmetric_nats(
    lab: Lab, twistd: Twistds, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.start_turn(twistd)
    # It would go on for a minute.
    monkeypatch.setattr(stun, "RETRY_MAX", 4)
    monkeypatch.setattr(stun, "RETRY_RTO", 0.05)
    with pytest.raises(ConnectionError):
        connect(lab, ("symmetric", "symmetric"), None)


def test_ice_connects_through_the_relay_with_symmetric_nats(lab: Lab, twistd: Twistds) -> None:
    lab.start_turn(twistd, *long_term(USER, PASSWORD))
    assert "relay" in connect(lab, ("symmetric", "symmetric"), (USER, PASSWORD))


def test_ice_connects_through_the_relay_where_no_udp_passes(lab: Lab, twistd: Twistds) -> None:
    lab.start_turn(twistd, *long_term(USER, PASSWORD))
    lab.lose_udp(100)
    assert connect(lab, ("home", "home"), (USER, PASSWORD), "tcp") == {"relay"}


def test_the_relay_takes_credentials_made_of_a_secret(lab: Lab, twistd: Twistds) -> None:
    lab.start_turn(twistd, *shared_secret(SECRET))
    assert "relay" in connect(lab, ("symmetric", "symmetric"), time_limited(SECRET))
