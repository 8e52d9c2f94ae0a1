"""Both ends of a data connection, with bytes between them that arrive late and in any pieces.

The server opens streams one after the other. The users of both ends send, end and reset whenever they like.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rtunnel.errors import Code
from rtunnel.wire.data.seal import Cipher
from tests.examples import examples
from tests.wire.data.ends import ALIVE, DATA, DONE, END, OPEN, RESET, End, opening, raw, sealed, seals, survives

SERVER, CLIENT = 0, 1
SIDES = st.sampled_from([SERVER, CLIENT])


def pattern(number: int, side: int, start: int, count: int) -> bytes:
    """Return bytes that show from which stream, end and offset they are."""
    first = start * 7 + number * 31 + side * 101
    period = bytes((first + offset * 7) % 256 for offset in range(min(count, 256)))
    return (period * (count // 256 + 1))[:count]


class TwoEnds(RuleBasedStateMachine):
    """Nothing is lost, doubled, reordered or seen in another stream; and both ends agree how each stream ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: tuple[End, End]
        # By number of the stream, for each side: how many bytes it has sent, whether it has ended, and reset.
        self.sent: list[dict[int, int]] = [{}, {}]
        self.ended: list[set[int]] = [set(), set()]
        self.reset: list[set[int]] = [set(), set()]

    @initialize(cipher=st.none() | st.sampled_from([Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305]))
    def connect(self, cipher: Cipher | None) -> None:
        for_server, for_client = (None, None) if cipher is None else seals(cipher)
        self.ends = End(for_server, is_server=True), End(for_client, is_server=False)

    # What the users do

    @precondition(lambda self: self.ends[SERVER].state.can_open)
    @rule()
    def open(self) -> None:
        end = self.ends[SERVER]
        end.open()
        for side in (SERVER, CLIENT):
            self.sent[side][end.state.number] = 0

    def may_send(self, side: int) -> bool:
        state = self.ends[side].state
        return not state.is_free and state.number not in self.ended[side] | self.reset[side]

    @rule(side=SIDES, count=st.integers(1, 60) | st.sampled_from([1000, 70_000]))
    def write(self, side: int, count: int) -> None:
        state = self.ends[side].state
        if self.may_send(side):
            start = self.sent[side][state.number]
            self.ends[side].out += state.pack(DATA, pattern(state.number, side, start, count))
            self.sent[side][state.number] += count

    @rule(side=SIDES)
    def end(self, side: int) -> None:
        may = self.may_send(side)
        record = self.ends[side].state.end()
        self.ends[side].out += record
        assert bool(record) is may
        if may:
            self.ended[side].add(self.ends[side].state.number)

    @rule(side=SIDES)
    def reset_stream(self, side: int) -> None:
        state = self.ends[side].state
        if record := state.reset(Code.CONNECTION_LOST, "a test"):
            self.ends[side].out += record
            self.reset[side].add(state.number)
            assert not state.takes_data

    @rule(side=SIDES)
    def show_life(self, side: int) -> None:
        self.ends[side].out += self.ends[side].state.alive()

    # What the network does

    @rule(side=SIDES, count=st.integers(1, 100) | st.just(200_000), cuts=st.lists(st.integers(1, 100), max_size=3))
    def deliver(self, side: int, count: int, cuts: list[int]) -> None:
        out = self.ends[side].out
        piece = bytes(out[:count])
        del out[:count]
        self.ends[1 - side].receive(piece, cuts)

    # What holds

    @invariant()
    def nothing_is_mixed_up(self) -> None:
        for side, end in enumerate(self.ends):
            other = 1 - side
            for number, got in end.got.items():
                assert got.data == pattern(number, other, 0, len(got.data))
                assert len(got.data) <= self.sent[other][number]
                if got.ended:
                    assert number in self.ended[other]
                    assert len(got.data) == self.sent[other][number]
                if got.was_reset:
                    assert number in self.reset[other], "nobody else has reset it"

    @invariant()
    def the_server_is_free_only_when_the_client_has_read_the_end(self) -> None:
        server, client = self.ends
        number = server.state.number
        if number and server.state.is_free and not server.got[number].was_reset and number not in self.reset[SERVER]:
            assert client.got[number].ended
            assert client.state.is_free

    def settle(self) -> None:
        while any(end.out for end in self.ends):
            for side in (SERVER, CLIENT):
                self.deliver(side, 1 << 30, [])

    def teardown(self) -> None:
        """Let everything arrive. Then what is open can still end, and the connection takes another stream."""
        if not hasattr(self, "ends"):
            return
        self.settle()
        assert self.ends[SERVER].state.is_free == self.ends[CLIENT].state.is_free
        if not self.ends[SERVER].state.is_free:
            for side in (SERVER, CLIENT):
                self.end(side)
            self.settle()
        for end in self.ends:
            assert end.state.is_free
            assert not end.reader.held
        for number in self.sent[SERVER]:
            is_whole = [got.ended and not got.was_reset for got in (end.got[number] for end in self.ends)]
            by_us = [number in self.reset[side] for side in (SERVER, CLIENT)]
            if not any(by_us):
                assert is_whole == [True, True]
            else:
                # Whoever has not reset it itself was told, unless the server did so when the client had both ends.
                for side in (SERVER, CLIENT):
                    assert by_us[side] or self.ends[side].got[number].was_reset
        self.open()
        self.settle()
        self.write(SERVER, 1000)
        self.write(CLIENT, 1000)
        self.end(SERVER)
        self.end(CLIENT)
        self.settle()
        self.nothing_is_mixed_up()
        last = self.ends[SERVER].state.number
        assert all(end.state.is_free and end.got[last].ended for end in self.ends)


def test_two_ends() -> None:
    run_state_machine_as_test(TwoEnds, settings=settings(max_examples=examples(120), stateful_step_count=60))


# A peer that is not honest

KINDS = st.sampled_from([DATA, END, RESET, ALIVE, OPEN, DONE]) | st.integers(0, 255)
RECORDS = st.tuples(
    KINDS, st.integers(0, 3), st.one_of(st.just(b""), st.just(opening(0)), st.just(b"limit\0"), st.binary(max_size=40))
)


@given(st.booleans(), st.booleans(), st.lists(RECORDS, max_size=20), st.lists(st.integers(0, 300), max_size=6))
def test_any_records_of_a_peer(is_server: bool, is_sealed: bool, records: list[tuple[int, int, bytes]], cuts) -> None:
    """Those of the other end of the connection, which has its keys."""
    ours, theirs = seals()[:: 1 if is_server else -1]
    end = End(ours if is_sealed else None, is_server=is_server)
    data = b"".join(sealed(theirs[0], *record) if is_sealed else raw(*record) for record in records)
    bounds = [0, *sorted(cuts), len(data)]
    assert survives(end, [data[start:stop] for start, stop in pairwise(bounds)]).isprintable()


@given(st.booleans(), st.booleans(), st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_of_a_peer(is_server: bool, is_sealed: bool, pieces: list[bytes]) -> None:
    end = End(seals()[not is_server] if is_sealed else None, is_server=is_server)
    assert survives(end, pieces).isprintable()


@given(st.booleans(), st.data())
@settings(max_examples=examples(200))
def test_an_honest_peer_whose_bytes_are_changed(is_sealed: bool, data: st.DataObject) -> None:
    """If records are sealed, nothing of the change or behind it is seen."""
    for_server, for_client = seals() if is_sealed else (None, None)
    server, client = End(for_server, is_server=True), End(for_client, is_server=False)
    server.open()
    server.out += server.state.pack(DATA, b"hello") + server.state.end()
    out = bytearray(server.out)
    bit = data.draw(st.integers(0, 8 * len(out) - 1))
    out[bit // 8] ^= 1 << bit % 8
    said = survives(client, [bytes(out)])
    if is_sealed:
        assert said or client.reader.held, "it is refused, or waits for bytes that never come"
        assert all(b"hello".startswith(got.data) and not got.ended for got in client.got.values())


def test_an_end_in_one_read_with_the_next_stream() -> None:
    """The last bytes of one stream and the first ones of the next."""
    server, client = End(is_server=True), End(is_server=False)
    for number in range(1, 50):
        server.open()
        server.out += server.state.pack(DATA, b"%d" % number) + server.state.end()
        client.receive(bytes(server.out))
        server.out.clear()
        assert client.got[number].data == b"%d" % number
        client.out += client.state.pack(DATA, b"answer") + client.state.end()
        server.receive(bytes(client.out))
        client.out.clear()
        assert server.got[number].data == b"answer"
        assert server.state.is_free


@pytest.mark.parametrize("kind", [END, DONE, DATA, RESET])
def test_a_record_that_comes_twice(kind: int) -> None:
    """Of the last stream, when the next one is open: the connection ends, and the visitor sees nothing of it."""
    server, client = End(is_server=True), End(is_server=False)
    server.open()
    client.receive(bytes(server.out))
    client.out += client.state.reset("test", "")
    server.receive(bytes(client.out))
    server.open()
    assert "of stream 1 where 2" in survives(server, [raw(kind, 1, b"late" if kind in (DATA, RESET) else b"")])
    assert server.got[2].data == b""
