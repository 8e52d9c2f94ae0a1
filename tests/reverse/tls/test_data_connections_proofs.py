"""What the ends of a data connection under TLS prove to each other."""

from __future__ import annotations

import os

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.reverse.carriers import pool_size
from rtunnel.wire.data.keys import connection_seals
from rtunnel.wire.data.tickets import MAX_ATTEMPTS
from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.data import ATTACH, R_ALIVE, R_DATA, R_END, RANDOM, RECORD, record
from tests.reverse.net import Peer, connect, frame, turns, until
from tests.reverse.tls.data_connection_parts import MIB, Tunnel
from tests.tls.parts import Lines


@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_visitor_over_sealed_records(tunnel: Tunnel) -> None:
    await tunnel.start(by_hand=True)
    data = await tunnel.attach(tunnel.tickets[0])
    await data.is_taken()
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    await until(lambda: len(tunnel.server.visitors) == 1)
    await turns()
    assert data.visitor is None, "the client has proved nothing yet"
    assert not tunnel.pool._idle
    assert len(tunnel.tickets) >= pool_size.AT_FIRST
    data.say(R_ALIVE)
    assert await data.is_used() == (0, visitor.name)
    visitor.send(b"GET /")
    await data.has_stream(b"GET /")
    answer = os.urandom(100_000)
    data.say(R_DATA, answer)
    await visitor.has(answer)
    data.say(R_END)
    await until(lambda: visitor.eof)


@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_connection_that_is_cut_is_a_reset_and_no_end(tunnel: Tunnel) -> None:
    await tunnel.start(by_hand=True)
    data = await tunnel.attach(tunnel.tickets[0])
    await data.is_taken()
    data.say(R_ALIVE)
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    await data.is_used()
    data.say(R_DATA, b"half an answer")
    await visitor.has(b"half an answer")
    data.close()
    await until(lambda: visitor.was_reset)


@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_replayed_attach_gets_nothing(tunnel: Tunnel, lines: Lines) -> None:
    """Anybody on the path sees it. He has so many attempts, and the client still has its connection."""
    await tunnel.start(by_hand=True)
    ticket = tunnel.tickets[0]
    random = os.urandom(RANDOM)
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    await until(lambda: len(tunnel.server.visitors) == 1)
    data = await tunnel.attach(ticket, random)
    await data.is_taken()
    strangers = [await tunnel.stranger(frame(ATTACH, 0, ticket.id + random)) for _ in range(MAX_ATTEMPTS - 1)]
    answer = RANDOM + RECORD.size + 16
    await until(lambda: all(stranger.count == answer for stranger in strangers))
    assert len({bytes(stranger.received) for stranger in strangers}) == len(strangers), "none is like another"
    one_more = await tunnel.stranger(frame(ATTACH, 0, ticket.id + random))
    await one_more.ends()
    assert not one_more.count
    await lines.wait_for("its ticket is unknown, was used, or has expired")
    assert not any(stranger.over for stranger in strangers)
    data.say(R_ALIVE)
    assert await data.is_used() == (0, visitor.name)
    # The ticket is spent: nothing is kept for who else has shown it.
    for stranger in strangers:
        await stranger.ends()
        assert stranger.count == answer
    assert not tunnel.pool._unproved


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_header_that_announces_much_counts(tunnel: Tunnel, is_used: bool, lines: Lines) -> None:
    """Eight bytes make the server take as much memory as the record will need, and its budget knows at once."""
    await tunnel.start(by_hand=True)
    data = await tunnel.attach(tunnel.tickets[0])
    await data.is_taken()
    data.say(R_ALIVE)
    await until(lambda: tunnel.pool._idle)
    if is_used:
        visitor = Peer()
        tunnel.visitors.append(visitor)
        await connect(tunnel.port, visitor)
        await data.is_used()
    memory = tunnel.server.memory
    assert sum(held for held, _ in tunnel.pool.holdings()) < MIB / 8
    memory.total, memory.look_at = MIB // 8, MIB // 4
    data.send(RECORD.pack(R_DATA << 24 | 256 * 1024 + 16, data.number))
    if is_used:
        await data.is_reset()
        memory.look()  # that was the stream; this is the connection
    await data.ends()
    await lines.wait_for("memory is used up")


@pytest.mark.parametrize(
    "said",
    [
        record(R_ALIVE),
        record(R_DATA, 1, b"x"),
        record(R_ALIVE, 0, bytes(16)),
        record(R_ALIVE, 0, bytes(64 + 16 + 1)),
        RECORD.pack(R_DATA << 24 | 0xFFFFFF, 1),
        b"",
    ],
)
@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_who_does_not_have_the_key(tunnel: Tunnel, said: bytes, lines: Lines) -> None:
    """Neither plain records nor made-up ones get anywhere; whoever says nothing is closed in the end."""
    limits = LinkLimits(keepalive_interval=0.1, dead_after=0.5)
    await tunnel.start({"limits": limits}, by_hand=True)
    pool, ticket = tunnel.pool, tunnel.tickets[0]
    stranger = await tunnel.stranger(frame(ATTACH, 0, ticket.id + bytes(RANDOM)))
    await until(lambda: stranger.count)
    stranger.send(said)
    await stranger.ends()
    assert not pool._idle
    assert not pool._busy
    assert ticket in tunnel.tickets, "the client can still use it"
    if said:
        await lines.wait_for("a data connection is closed: a (sealed record of|record that is not authentic)")
    data = await tunnel.attach(ticket)
    await data.is_taken()
    data.say(R_ALIVE)
    await until(lambda: pool._idle)


@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_plain_attach_where_records_are_sealed(tunnel: Tunnel, lines: Lines) -> None:
    await tunnel.start(by_hand=True)
    ticket = tunnel.tickets[0]
    stranger = await tunnel.stranger(frame(ATTACH, 0, ticket.id))
    await stranger.ends()
    assert not stranger.count
    await lines.wait_for("data connection from .* closed: one end seals its records, and the other does not")
    assert ticket in tunnel.tickets


@pytest.mark.parametrize("how", ["repeated", "changed", "left out", "plain"])
@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_record_that_somebody_on_the_path_has_touched(tunnel: Tunnel, how: str, lines: Lines) -> None:
    await tunnel.start(by_hand=True)
    data = await tunnel.attach(tunnel.tickets[0])
    await data.is_taken()
    data.say(R_ALIVE)
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    await data.is_used()
    sent: list[bytes] = []
    send, data.send = data.send, sent.append  # type: ignore[method-assign,assignment]
    data.say(R_DATA, b"one")
    data.say(R_DATA, b"two")
    first, second = sent
    send(first)
    await visitor.has(b"one")
    if how == "repeated":
        send(first)
    elif how == "changed":
        send(second[:-17] + bytes([second[-17] ^ 1]) + second[-16:])
    elif how == "left out":
        data.say(R_DATA, b"three")
        send(sent[-1])
    else:
        send(record(R_DATA, 1, b"forged by somebody"))
    await data.ends()
    await until(lambda: visitor.was_reset)
    assert visitor.received == b"one"
    await lines.wait_for("a data connection is closed: a record that is not authentic")


@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_ticket_of_another_client(tunnel: Tunnel, lines: Lines) -> None:
    """Who has a link of his own can do no more with it than a stranger."""
    await tunnel.start(by_hand=True)
    mine = tunnel.tickets
    other = tunnel.authority.client("other")
    tunnel.ends.start_client(tunnel.authority.trusts(other), remote_port=free_port(), data_plane="direct")
    await until(lambda: len(tunnel.tickets) == 2 * pool_size.AT_FIRST)
    theirs = tunnel.tickets[-1]
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    random = os.urandom(RANDOM)
    intruder = await tunnel.stranger(frame(ATTACH, 0, mine[0].id + random))
    await until(lambda: intruder.count)
    answer = bytes(intruder.received[:RANDOM])
    seal, _ = connection_seals(theirs.key, random, answer, tunnel.pool._cipher, is_client=True)
    header, sealed = RECORD.pack(R_ALIVE << 24 | 16, 0), bytearray(16)
    seal.seal(header, b"", memoryview(sealed))
    intruder.send(header + sealed)
    await intruder.ends()
    await lines.wait_for("a data connection is closed: a record that is not authentic")
    assert not visitor.over
