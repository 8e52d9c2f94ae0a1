"""A data connection that goes on in another process: written down as JSON and read again at any point of an exchange.

Its twin, which never was, must send the same bytes and see the same events.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import Code
from rtunnel.wire.data.frozen import Fields
from rtunnel.wire.data.records import MAX_CONTROL, PlainReader, SealedReader
from rtunnel.wire.data.seal import RECORDS_PER_KEY, Cipher, Seal
from tests.wire.data.ends import DATA, HEADER, NOW, RESET, End, feed, raw, seals

CIPHERS = [Cipher.NONE, Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305]


def through_json(state: object) -> Fields:
    return Fields(json.loads(json.dumps(state)))


def thawed(end: End, cipher: Cipher) -> End:
    """The same end in another process."""
    both = None
    if end.state._seal is not None:
        assert isinstance(end.reader, SealedReader)
        both = (
            Seal.thaw(through_json(end.state._seal.freeze()), cipher),
            Seal.thaw(through_json(end.reader.seal.freeze()), cipher),
        )
    new = End(both, is_server=end.is_server)
    new.state.thaw(through_json(end.state.freeze()))
    new.reader.thaw(through_json(end.reader.freeze()))
    new.out, new.got = end.out, end.got
    # Its time begins when it was made; here that takes none.
    new.state._ticked_at = end.state._ticked_at
    return new


class Pair:
    """Both ends of one connection, and what is on its way in each direction."""

    def __init__(self, cipher: Cipher) -> None:
        self.cipher = cipher
        both = (None, None) if cipher is Cipher.NONE else seals(cipher)
        self.ends = [End(both[0], is_server=True), End(both[1], is_server=False)]
        self.sent = [bytearray(), bytearray()]
        self.now = NOW

    def do(self, what: str, which: int, number: int) -> None:
        end = self.ends[which]
        state = end.state
        if what == "open":
            if state.is_server and state.can_open:
                end.open()
        elif what == "data":
            if not (state.is_free or state._sent_end or state._sent_reset):
                end.out += state.pack(DATA, bytes([number % 256]) * (1 + number))
        elif what == "end":
            end.out += state.end()
        elif what == "reset":
            end.out += state.reset(Code.STALLED, "why")
        elif what == "alive":
            end.out += state.alive()
        elif what == "tick":
            self.now += number / 100
            end.out += state.tick(self.now, is_reading=True, can_send=True)
        elif what == "deliver":
            other = self.ends[1 - which]
            piece, end.out = bytes(end.out[:number]), end.out[number:]
            self.sent[which] += piece
            if piece:
                other.state.has_heard = True
            other.receive(piece)

    def move(self, which: int) -> None:
        self.ends[which] = thawed(self.ends[which], self.cipher)

    def seen(self) -> list[Any]:
        return [
            (bytes(sent), bytes(end.out), end.got, end.state.freeze(), end.reader.held)
            for end, sent in zip(self.ends, self.sent, strict=True)
        ]


STEPS = st.tuples(
    st.sampled_from(["open", "data", "end", "reset", "alive", "tick", "deliver", "deliver", "deliver"]),
    st.integers(0, 1),
    st.integers(0, 600),
    st.sampled_from([None, None, 0, 1]),
)


@given(cipher=st.sampled_from(CIPHERS), steps=st.lists(STEPS, max_size=40))
def test_it_behaves_as_one_that_was_not(cipher: Cipher, steps: list[tuple[str, int, int, int | None]]) -> None:
    moved, twin = Pair(cipher), Pair(cipher)
    for pair in (moved, twin):
        pair.do("open", 0, 0)
    for what, which, number, moves in steps:
        if moves is not None:
            moved.move(moves)
        moved.do(what, which, number)
        twin.do(what, which, number)
    assert moved.seen() == twin.seen()


@pytest.mark.parametrize("cipher", CIPHERS[1:])
def test_the_next_key(cipher: Cipher) -> None:
    """Of a seal whose key has done its share."""
    (seal, _), (_, opener) = seals(cipher)
    for each in (seal, opener):
        each._nonce = RECORDS_PER_KEY - 1
    for _ in range(3):
        seal, opener = (Seal.thaw(through_json(each.freeze()), cipher) for each in (seal, opener))
        assert opener.unsealed(b"header", seal.sealed(b"header", b"text")) == b"text"
    assert seal._nonce == 2


@given(data=st.integers(1, 2000), cut=st.integers(0, 2100))
def test_within_a_plain_record(data: int, cut: int) -> None:
    sent = raw(DATA, 7, b"d" * data) + raw(RESET, 7, b"r" * 50) + raw(DATA, 8, b"e")
    first, reader = PlainReader(), PlainReader()
    whole = [*feed(first, sent[:cut])]
    reader.thaw(through_json(first.freeze()))
    whole += feed(reader, sent[cut:])
    assert b"".join(payload for kind, number, payload in whole if number == 7 and kind == DATA) == b"d" * data
    assert whole[-2:] == [(RESET, 7, b"r" * 50), (DATA, 8, b"e")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("AAAA"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FROZEN: dict[str, Any] = {
    "state": End(is_server=True).state.freeze(),
    "plain": PlainReader().freeze(),
    "sealed": SealedReader(seals()[0][1]).freeze(),
    "seal": seals()[0][0].freeze(),
}


@given(what=st.sampled_from(list(FROZEN)), changed=st.dictionaries(st.integers(0, 12), JSON, max_size=3), whole=JSON)
def test_garbage(what: str, changed: dict[int, Any], whole: Any) -> None:
    state = dict(FROZEN[what])
    names = list(state)
    for number, value in changed.items():
        if number < len(names):
            state[names[number]] = value
        else:
            state.pop(names[number % len(names)], None)
    for each in (state, whole):
        try:
            frozen = Fields(each)
            if what == "state":
                End(is_server=True).state.thaw(frozen)
            elif what == "plain":
                PlainReader().thaw(frozen)
            elif what == "sealed":
                SealedReader(seals()[0][1]).thaw(frozen)
            else:
                Seal.thaw(frozen, Cipher.AES_256_GCM)
        except ValueError:
            pass


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"^parts of two records$"):
        PlainReader().thaw(Fields({"part": "AAAA", "left": 1, "number": 1}))
    header = HEADER.pack(DATA << 24 | 20, 1)
    for part in (header + bytes(20), HEADER.pack(DATA << 24 | 0xFFFFFF, 1)):
        with pytest.raises(ValueError, match=r"^more than a part of a record$"):
            SealedReader(seals()[0][1]).thaw(Fields({"part": b64encode(part).decode()}))
    with pytest.raises(ValueError, match="too long"):
        PlainReader().thaw(Fields({"part": "A" * (MAX_CONTROL + 60) * 2, "left": 0, "number": 1}))
    state = {**FROZEN["state"], "takes_data": True}
    with pytest.raises(ValueError, match=r"^a stream that cannot be$"):
        End(is_server=True).state.thaw(Fields(state))
