"""Links with hedges: both ends in this process, a real liboqs, and peers that do not keep to the rules."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.reverse.client import carrying as client_carrying
from rtunnel.reverse.server import carrying as server_carrying
from rtunnel.wire import frames, messages
from rtunnel.wire.data.hedges import KEMS, PIECE, SIGN_EVERY, cut
from rtunnel.wire.data.keys import client_length
from tests.needs import needs_liboqs
from tests.ports import free_port
from tests.reverse.net import LocalService, Peer, connect, until
from tests.tls.parts import Authority, Ends, Lines

pytestmark = needs_liboqs

MCELIECE, FRODO = KEMS
HEDGE: Any = {"hedge": (FRODO,)}


class Pair:
    """A server and a client, and a service that nobody may reach unless the keys are right."""

    def __init__(self, ends: Ends, authority: Authority) -> None:
        self.ends = ends
        self.authority = authority
        self.public = free_port()
        self.service = LocalService(Peer)
        self.server: Any = None
        self.client: Any = None

    async def start(self, **settings: Any) -> Pair:
        await self.service.listen(self.service.port)
        authority = self.authority
        self.server = self.ends.start_server(authority.trusts(authority.server()), **settings)
        self.client = self.ends.start_client(
            authority.trusts(authority.client()), remote_port=self.public, local=self.service.port, **settings
        )
        return self

    @property
    def session(self) -> Any:
        """The server's end of the link."""
        (session,) = self.server.sessions
        return session

    async def is_refused(self, lines: Lines, text: str) -> None:
        """Wait until both ends say this, and the link is gone; nobody was served."""
        await lines.wait_for(re.escape(text), count=2)
        await until(lambda: not list(self.server.sessions))
        assert "is published" not in lines.text
        assert not self.service.peers

    async def stop(self) -> None:
        for peer in self.service.peers:
            if peer.connected:
                peer.abort()
        await self.service.stop()


@pytest.fixture
def pair(ends: Ends, authority: Authority) -> Pair:
    return Pair(ends, authority)


def _send(monkeypatch: pytest.MonkeyPatch, end: Any, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Let an end send other pieces of KEYS."""
    monkeypatch.setattr(end, "cut", lambda payload: change(cut(payload)))


@ensureDeferred
async def test_visitors_come_and_none_by_the_link(pair: Pair, lines: Lines) -> None:
    await pair.start(**HEDGE)
    await lines.wait_for("is published")
    visitor = Peer()
    await connect(pair.public, visitor)
    peer = await pair.service.peer(0)
    up, down = os.urandom(1_000_000), os.urandom(1_000_000)
    visitor.send(up)
    await peer.has(up)
    peer.send(down)
    await visitor.has(down)
    assert pair.session.hedged_with == pair.client.link.session.hedged_with == (FRODO,)
    assert [type(each).__name__ for each in pair.session.carriers] == ["DataPool"]
    assert not pair.session.link.streams
    visitor.close()
    await pair.stop()


@ensureDeferred
async def test_long_keys_come_in_pieces_and_the_server_says_that_it_is_there(
    pair: Pair, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs: list[bytes] = []
    received = client_carrying.CarryingSession._keys_received

    def look(session: Any, event: Any) -> None:
        signs.append(event.payload)
        received(session, event)

    monkeypatch.setattr(client_carrying.CarryingSession, "_keys_received", look)
    await pair.start(hedge=(MCELIECE, FRODO))
    await lines.wait_for("is published")
    pieces = -(-client_length((MCELIECE, FRODO)) // PIECE)
    assert signs.count(b"") == pieces // SIGN_EVERY == 8
    assert [len(sign) for sign in signs if sign] == [PIECE, 1121 + 208 + 21632 - PIECE]
    await pair.stop()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pieces: [pieces[0][:100], *pieces], f"a piece of KEYS of 100 bytes where {PIECE} belong"),
        (lambda pieces: [b"", *pieces], f"a piece of KEYS of 0 bytes where {PIECE} belong"),
        (lambda pieces: [pieces[0] + b"x"], f"a piece of KEYS of {PIECE + 1} bytes where {PIECE} belong"),
        (lambda pieces: [*pieces[:-1], pieces[-1] + b"x"], "a piece of KEYS of 6354 bytes where 6353 belong"),
        (lambda pieces: [*pieces, pieces[0]], "a second KEYS"),
        (lambda pieces: [*pieces, b""], "a second KEYS"),
        (lambda pieces: [bytes([pieces[0][0]]) + bytes(PIECE - 1), pieces[1]], "KEYS with a bad X25519 key"),
        (lambda pieces: [b"\0" + pieces[0][1:], pieces[1]], "KEYS without a cipher on a link with TLS"),
        (lambda pieces: [b"\x07" + pieces[0][1:], pieces[1]], "KEYS with the unknown cipher 7"),
        (lambda pieces: [pieces[0][:33] + b"\xff" * 1184 + pieces[0][1217:], pieces[1]], "KEYS with a bad ML-KEM key"),
    ],
)
@ensureDeferred
async def test_a_client_that_sends_something_else(
    change: Any, said: str, pair: Pair, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    _send(monkeypatch, client_carrying, change)
    await pair.start(**HEDGE)
    await pair.is_refused(lines, f"protocol-error: {said}")
    await pair.stop()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pieces: [pieces[0][1:]], f"a piece of KEYS of {PIECE - 1} bytes where {PIECE} belong"),
        (lambda pieces: [pieces[0], pieces[1] + b"x"], "a piece of KEYS of 6370 bytes where 6369 belong"),
        (lambda pieces: [b"\x07" + pieces[0][1:], pieces[1]], "KEYS with the unknown cipher 7"),
        (lambda pieces: [pieces[0][:1] + bytes(32) + pieces[0][33:], pieces[1]], "KEYS with a bad X25519 key"),
        (lambda pieces: [*pieces, pieces[0]], "a second KEYS"),
    ],
)
@ensureDeferred
async def test_a_server_that_sends_something_else(
    change: Any, said: str, pair: Pair, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    _send(monkeypatch, server_carrying, change)
    await pair.start(**HEDGE)
    await lines.wait_for(re.escape(f"protocol-error: {said}"), count=2)
    assert not pair.service.peers
    await pair.stop()


@ensureDeferred
async def test_another_ciphertext_is_another_key(pair: Pair, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who could open TLS, but has only guessed at the hedge, has a link that carries nobody."""
    _send(monkeypatch, server_carrying, lambda pieces: [pieces[0], pieces[1][:-1] + bytes([pieces[1][-1] ^ 1])])
    await pair.start(**HEDGE)
    await lines.wait_for("is published")
    visitor = Peer()
    await connect(pair.public, visitor)
    visitor.send(b"for the service only")
    await lines.wait_for("data connections cannot be made|a data connection is closed")
    assert not pair.service.peers
    visitor.abort()
    await pair.stop()


@ensureDeferred
async def test_a_server_that_sends_a_visitor_by_the_link(pair: Pair, lines: Lines) -> None:
    await pair.start(**HEDGE)
    await lines.wait_for("is published")
    session = pair.session
    session.link._send(frames.NEW_CONN, 7, messages.encode_visitor(0, "192.0.2.1:5000"))
    session.flush()
    text = r"protocol-error: NEW_CONN where no visitor may go by the link \(--hedge\)"
    await lines.wait_for(text, count=2)
    assert not pair.service.peers
    await pair.stop()


@ensureDeferred
async def test_a_link_that_is_lost_while_keys_are_made(
    pair: Pair, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.start(hedge=(MCELIECE,))
    await lines.wait_for(r"client \S+ \(\S+\) connected")
    pair.session.drop()
    await until(lambda: not list(pair.server.sessions))
    await lines.wait_for("lost: ")
    assert "is published" not in lines.text
    await pair.stop()


@pytest.fixture
def kept_back(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The client's KEYS, which wait until the test sends them."""
    pieces: list[bytes] = []

    def keep(payload: bytes) -> list[bytes]:
        pieces.extend(cut(payload))
        return []

    monkeypatch.setattr(client_carrying, "cut", keep)
    return pieces


@pytest.mark.parametrize("say", [(False,), (True,), (True, False), (False, True)])
@ensureDeferred
async def test_what_is_said_of_a_service_before_there_are_keys_counts(
    say: tuple[bool, ...], pair: Pair, lines: Lines, kept_back: list[bytes]
) -> None:
    await pair.start(**HEDGE)
    await until(lambda: kept_back and list(pair.server.sessions), "the client's keys")
    session = pair.client.link.session
    for is_ready in say:
        session.link.say_state(0, is_ready=is_ready, why="it sleeps")
    session.flush()
    await until(lambda: pair.session._early)
    assert not pair.session.backends
    for piece in kept_back:
        session.link.send_keys(piece)
    session.flush()
    await lines.wait_for("is published")
    assert pair.session.backends[0].is_ready is say[-1]
    assert not pair.session._early
    await pair.stop()


@ensureDeferred
async def test_a_tunnel_that_is_withdrawn_before_there_are_keys(
    pair: Pair, lines: Lines, kept_back: list[bytes]
) -> None:
    await pair.start(**HEDGE)
    await until(lambda: kept_back and list(pair.server.sessions) and pair.session._early, "an early tunnel")
    session = pair.client.link.session
    assert session.link.withdraw_tunnel(0)
    session.flush()
    await until(lambda: not pair.session._early)
    for piece in kept_back:
        session.link.send_keys(piece)
    session.flush()
    await lines.wait_for(rf"its keys have {FRODO} mixed in", count=2)
    assert not pair.session.backends
    assert "published" not in lines.text
    await pair.stop()
