"""The control channel with hedges: KEYS in pieces, keys that take their time, and ends that do not keep to the rules.

The hedges here have the right sizes and hide nothing; see test_hedged_ends.py for real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from rtunnel.rtc.sealed import session
from rtunnel.rtc.sealed.end import LINGER, TIMEOUT, patience
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.wire.data.hedges import KEMS, PIECE, SECRET, cut, ordered
from rtunnel.wire.data.keys import ClientAgreement, ServerAgreement, client_length, server_length
from rtunnel.wire.data.seal import Cipher
from rtunnel.wire.webrtc.seal_control import LABEL
from tests.rtc.sealed.parts import MemoryEnd, Pair
from tests.wire.data.test_hedges import Toy

Make = Callable[..., Pair]
MCELIECE, FRODO = KEMS
BROKE = "the {} broke the protocol of sealed channels: "


class Toys(Hedges):
    """Hedges whose keys are there when the test says so.

    :ivar secret: what each of them gives.
    :ivar work: what would be done in threads.
    """

    def __init__(self, *names: str, secret: bytes = b"s" * SECRET, waits: bool = False) -> None:
        super().__init__(None, ())
        self.names = ordered(names)
        self._kems = tuple(Toy(KEMS[name], secret) for name in self.names)
        self._waits = waits
        self.work: list[Callable[[], None]] = []

    def _run(self, make: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.work.append(lambda: done.callback(None))
        done.addCallback(lambda _: make())
        if not self._waits:
            self.go_on()
        return done

    def go_on(self) -> None:
        work, self.work = self.work, []
        for each in work:
            each()

    def agree(self) -> Deferred[ClientAgreement]:
        return self._run(partial(ClientAgreement, Cipher.AES_256_GCM, self._kems))

    def respond(self, payload: bytes) -> Deferred[ServerAgreement]:
        return self._run(partial(ServerAgreement, payload, Cipher.AES_256_GCM, self._kems))


def pair_of(make_pair: Make, *names: str, waits: bool = False) -> tuple[Pair, Toys, Toys]:
    host, client = Toys(*names, waits=waits), Toys(*names, waits=waits)
    return make_pair(hedges=(host, client)), host, client


def what_comes(end: MemoryEnd) -> list[bytes]:
    """All that arrives on the control channel of *end* from now on."""
    came: list[bytes] = []
    end.connection.change = lambda _label, data: came.append(data) or data  # type: ignore[func-returns-value]
    return came


@pytest.mark.parametrize("names", [(MCELIECE,), (FRODO,), (MCELIECE, FRODO)])
def test_keys_in_pieces(make_pair: Make, names: tuple[str, ...]) -> None:
    pair, _, _ = pair_of(make_pair, *names)
    all_that_came = what_comes(pair.host), what_comes(pair.client)
    lengths = client_length(names), server_length(names)
    pair.connect()
    for end, came, length in zip(pair.ends, all_that_came, lengths, strict=True):
        count = -(-length // PIECE)
        assert [len(each) for each in came[: count - 1]] == [PIECE] * (count - 1)
        assert len(came[count - 1]) == length - (count - 1) * PIECE
        # What follows is a record of TLS.
        assert came[count][:2] == b"\x16\x03"
        assert end.news == ["ready", "accepted"]
        assert end.end.held == 0
        assert end.end.shown.startswith(f"sealed X25519MLKEM768 + {' + '.join(names)}, ML-DSA-65, ")
    channel, _ = pair.client.open()
    channel.send(b"hello")
    pair.settle()
    assert pair.host.users[0].told[-1] == b"hello"


def test_without_hedges_keys_are_one_message(make_pair: Make) -> None:
    pair = make_pair()
    came = what_comes(pair.host), what_comes(pair.client)
    pair.connect()
    assert [len(each[0]) for each in came] == [1217, 1121]
    assert pair.host.end.shown.startswith("sealed X25519MLKEM768, ML-DSA-65, ")


def test_what_a_stranger_makes_a_host_hold(make_pair: Make) -> None:
    """Pieces, and then the whole until the answer is made; TLS that comes early waits. No more than this is taken."""
    pair, host, client = pair_of(make_pair, MCELIECE, waits=True)
    pieces = 0

    def stop(_label: str, data: bytes) -> bytes | None:
        nonlocal pieces
        pieces += 1
        return data if pieces <= 3 else None

    pair.host.connection.change = stop
    pair.connect()
    client.go_on()
    pair.settle()
    assert pair.host.end.held == 3 * PIECE
    assert not host.work
    # A client that is not ours: the rest of it, and a hello.
    pair.host.connection.change = lambda _label, data: data
    [control] = pair.client.connection.channels.values()
    message = ClientAgreement(Cipher.AES_256_GCM, [Toy(KEMS[MCELIECE])]).message
    for piece in cut(message)[3:]:
        control.send(piece)
    control.send(b"early")
    pair.settle()
    assert pair.host.end.held == client_length([MCELIECE]) + len(b"early")
    host.go_on()
    pair.settle()
    assert pair.host.end.held == 0
    assert pair.host.end.why.startswith("TLS with the client failed: ")


def test_keys_that_take_their_time(make_pair: Make) -> None:
    """Nothing is lost in the meantime, whatever the end that waits."""
    pair, host, client = pair_of(make_pair, FRODO, MCELIECE, waits=True)
    pair.connect()
    assert [len(client.work), len(host.work)] == [1, 0]
    client.go_on()
    pair.settle()
    assert [len(client.work), len(host.work)] == [0, 1]
    assert pair.client.news == pair.host.news == []
    host.go_on()
    pair.settle()
    assert [end.news for end in pair.ends] == [["ready", "accepted"]] * 2


@pytest.mark.parametrize("who", [0, 1])
def test_keys_that_are_there_when_the_connection_is_gone(make_pair: Make, who: int) -> None:
    pair, host, client = pair_of(make_pair, FRODO, waits=True)
    pair.connect()
    if who == 0:
        client.go_on()
        pair.settle()
    waits = (host, client)[who]
    assert waits.work
    pair.ends[who].give_up("it is enough")
    pair.settle()
    waits.go_on()
    pair.settle()
    assert pair.ends[who].news == ["given up"]
    assert pair.ends[who].end.held == 0


def test_a_client_that_cannot_make_keys(
    make_pair: Make, flush_logged_errors: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: Toy) -> tuple[bytes, bytes]:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Toy, "generate", fail)
    pair, _, _ = pair_of(make_pair, FRODO)
    pair.connect()
    assert pair.client.why == "the keys of --hedge cannot be made; the log says why"
    assert "no memory" in str(flush_logged_errors(RuntimeError))
    assert pair.host.users == []


def test_the_secret_of_a_hedge_counts(make_pair: Make) -> None:
    """All else is the same; so somebody who breaks X25519 and ML-KEM has no key."""
    host, client = Toys(FRODO), Toys(FRODO, secret=b"other" + bytes(27))
    pair = make_pair(hedges=(host, client)).connect()
    channel, _ = pair.client.open()
    channel.send(b"secret")
    pair.settle()
    pair.wait(LINGER)
    assert pair.host.users == []
    assert all(session.OTHER_KEYS in end.why for end in pair.ends)


@pytest.mark.parametrize(
    ("host", "client"),
    [((), (FRODO,)), ((FRODO,), ()), ((FRODO,), (MCELIECE,)), ((MCELIECE,), (FRODO,)), ((FRODO,), (FRODO, MCELIECE))],
)
def test_announcements_that_were_changed(make_pair: Make, host: tuple[str, ...], client: tuple[str, ...]) -> None:
    """Both ends believe that the other has the same hedges, and it has not."""
    pair = make_pair(hedges=(Toys(*host), Toys(*client))).connect()
    pair.wait(max(patience(host), patience(client)))
    assert pair.host.users == []
    assert all(end.why for end in pair.ends)
    assert "ready" not in pair.client.news + pair.host.news


# Whoever does not keep to the rules


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda pieces: [pieces[0][:-1], *pieces[1:]], f"a piece of KEYS of {PIECE - 1} bytes where {PIECE} belong"),
        (lambda pieces: [pieces[0] + b"x", *pieces[1:]], f"a piece of KEYS of {PIECE + 1} bytes where {PIECE} belong"),
        (lambda pieces: [b"", *pieces], f"a piece of KEYS of 0 bytes where {PIECE} belong"),
        (lambda pieces: [b"".join(pieces)], f"a piece of KEYS of 22737 bytes where {PIECE} belong"),
        (lambda pieces: [pieces[0], pieces[0]], f"a piece of KEYS of {PIECE} bytes where 6353 belong"),
        (lambda pieces: pieces[::-1], f"a piece of KEYS of 6353 bytes where {PIECE} belong"),
        (lambda pieces: [b"\0" + pieces[0][1:], *pieces[1:]], "KEYS without a cipher on a link with TLS"),
        (lambda pieces: [b"\1" + bytes(PIECE - 1), *pieces[1:]], "KEYS with a bad X25519 key"),
    ],
    ids=["cut", "longer", "empty", "oversized", "repeated", "reversed", "no cipher", "bad key"],
)
def test_a_client_that_sends_something_else(
    make_pair: Make, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[bytes]], list[bytes]], why: str
) -> None:
    monkeypatch.setattr("rtunnel.rtc.sealed.key_exchange.cut", lambda payload: change(cut(payload)))
    pair, _, _ = pair_of(make_pair, FRODO)
    pair.connect()
    assert pair.host.why == BROKE.format("client") + why
    assert pair.host.end.held == 0
    assert pair.client.why


def test_a_client_that_repeats_keys(make_pair: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is whole, only TLS is taken."""
    monkeypatch.setattr("rtunnel.rtc.sealed.key_exchange.cut", lambda payload: cut(payload) * 2)
    pair, _, _ = pair_of(make_pair, FRODO)
    pair.connect()
    assert pair.host.end.why.startswith("TLS with the client failed: ")
    assert pair.host.users == []


def test_a_host_that_sends_something_else(make_pair: Make) -> None:
    pair, _, _ = pair_of(make_pair, FRODO)
    pair.client.connection.change = lambda _label, data: data[:-1]
    pair.connect()
    assert pair.client.why == f"{BROKE.format('host')}a piece of KEYS of {PIECE - 1} bytes where {PIECE} belong"


def test_a_host_whose_keys_come_first(make_pair: Make) -> None:
    """It is no host of ours. What it sends cannot belong to the client's KEYS, which it has not seen."""
    pair, _, client = pair_of(make_pair, FRODO, waits=True)
    pair.connect()
    theirs = ServerAgreement(
        ClientAgreement(Cipher.AES_256_GCM, [Toy(KEMS[FRODO])]).message, Cipher.AES_256_GCM, [Toy(KEMS[FRODO])]
    )
    [control] = pair.host.connection.channels.values()
    for piece in (*cut(theirs.message), b"no TLS"):
        control.send(piece)
    pair.settle()
    assert pair.client.end.held == server_length([FRODO]) + 6
    client.go_on()
    pair.settle()
    assert pair.client.end.why.startswith("TLS with the host failed: ")


@pytest.mark.parametrize("names", [(FRODO,), (MCELIECE, FRODO)])
def test_the_most_bytes_grow_by_the_longer_keys(make_pair: Make, names: tuple[str, ...]) -> None:
    most = session.MOST + client_length(names) - client_length()
    pair, host, client = pair_of(make_pair, *names, waits=True)
    came = 0

    def count(_label: str, data: bytes) -> bytes:
        nonlocal came
        came += len(data)
        return data

    pair.host.connection.change = count
    pair.connect()
    client.go_on()
    pair.settle()
    assert host.work
    [control] = pair.client.connection.channels.values()
    while came < most:
        control.send(bytes(min(65536, most - came)))
        pair.settle()
    assert not pair.host.why
    assert pair.host.end.held == came
    control.send(b"x")
    pair.settle()
    assert pair.host.why == f"{BROKE.format('client')}more than {most} bytes on the control channel"
    assert pair.host.end.held == 0


def test_long_keys_have_more_time(make_pair: Make) -> None:
    assert patience(()) == TIMEOUT
    assert TIMEOUT < patience([FRODO]) < 13
    assert 60 < patience([MCELIECE]) < 65
    pair, _, client = pair_of(make_pair, MCELIECE, waits=True)
    pair.connect()
    pair.wait(patience([MCELIECE]) - 1)
    assert pair.host.news == []
    pair.wait(1)
    assert pair.host.why == "the client has not come to the end of its handshake within 62 s"
    client.go_on()


@pytest.mark.parametrize("names", [(FRODO,), (MCELIECE, FRODO)])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_piece_that_is_lost(make_pair: Make, names: tuple[str, ...], lost: int) -> None:
    """Nothing is carried, and it ends at the latest when its time is over."""
    pair, _, _ = pair_of(make_pair, *names)
    count = 0

    def change(label: str, data: bytes) -> bytes | None:
        nonlocal count
        count += 1
        return None if label == LABEL and count == lost + 1 else data

    pair.host.connection.change = change
    pair.connect()
    pair.wait(patience(names))
    assert pair.host.users == []
    assert all(end.why for end in pair.ends)
