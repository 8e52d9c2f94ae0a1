"""Packets: each is taken once, in any order within the window, and a forged one changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from rtunnel.wire.data import seal
from rtunnel.wire.data.seal import Cipher
from rtunnel.wire.datagrams import packets
from rtunnel.wire.datagrams.packets import HEADER, KEY_OVERLAP, KEY_SHIFT, OVERHEAD, WINDOW, Opener, Sealer, packet_id
from tests.examples import examples
from tests.wire.datagrams.ends import CLIENT_SECRET, ID, SERVER_SECRET, number_of, seals

CIPHERS = [Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305]
PER_KEY = 1 << KEY_SHIFT


def jump(sealer: Sealer, number: int) -> None:
    """Seal from *number* on, as if all packets before it were lost; not past the next key."""
    assert number <= sealer._until
    sealer._number = number


def state(opener: Opener) -> list[Any]:
    """Return all that an opener knows, but for the count of forged packets and keys that wait for their first use."""
    highest, seen = opener._highest, bytes(opener._seen)
    return [highest, seen, opener._next_secret, opener._drop_old_at]


def refused(opener: Opener, packet: bytes, now: float = 0.0) -> bool:
    before = state(opener)
    try:
        opener.open(packet, now)
    except ValueError:
        assert state(opener) == before
        return True
    return False


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many keys were derived, and how many packets decrypted."""
    counts = {"keys": 0, "decrypted": 0}
    real = seal.aead

    class Counting:
        def __init__(self, cipher: Cipher, key: bytes) -> None:
            counts["keys"] += 1
            self._real = real(cipher, key)

        def encrypt(self, *parts: bytes) -> bytes:
            return self._real.encrypt(*parts)

        def decrypt(self, *parts: bytes) -> bytes:
            counts["decrypted"] += 1
            return self._real.decrypt(*parts)

    monkeypatch.setattr(packets, "aead", Counting)
    return counts


@pytest.mark.parametrize("cipher", CIPHERS)
def test_there_and_back(cipher: Cipher) -> None:
    sealer, opener = seals(cipher=cipher)
    for number, message in enumerate([b"x", b"hello", bytes(65479)]):
        packet = sealer.seal(message)
        assert len(packet) == len(message) + OVERHEAD
        assert HEADER.unpack_from(packet) == (ID, number)
        assert packet_id(packet) == ID
        assert opener.open(memoryview(packet), 0.0) == message
        assert opener.is_newest


@given(st.binary(max_size=OVERHEAD))
def test_too_short(data: bytes) -> None:
    assert packet_id(data) is None
    assert refused(seals()[1], data)
    assert refused(seals(id=0)[1], bytes(len(data)))


def test_an_empty_message_is_no_packet() -> None:
    sealer, opener = seals()
    assert refused(opener, sealer.seal(b""))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    opener = seals()[1]
    assert refused(opener, data)
    assert refused(opener, HEADER.pack(ID, 0) + data)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_each_bit_counts(cipher: Cipher) -> None:
    sealer, opener = seals(cipher=cipher)
    packet = sealer.seal(b"hi")
    for bit in range(8 * len(packet)):
        changed = bytearray(packet)
        changed[bit // 8] ^= 1 << bit % 8
        assert refused(opener, bytes(changed))
    assert refused(opener, packet[:-1])
    assert refused(opener, packet + b"\0")
    assert opener.open(packet, 0.0) == b"hi"


def test_each_direction_has_its_own_keys() -> None:
    assert refused(seals(SERVER_SECRET)[1], seals(CLIENT_SECRET)[0].seal(b"hi"))


def test_the_id_is_authenticated_and_checked() -> None:
    packet = seals(id=1)[0].seal(b"hi")
    assert refused(seals(id=2)[1], packet)
    assert refused(seals(id=2)[1], HEADER.pack(2, 0) + packet[HEADER.size :])


# Replay


def test_a_packet_is_taken_once() -> None:
    sealer, opener = seals()
    sent = [sealer.seal(b"%d" % number) for number in range(300)]
    for packet in sent[::-1]:
        opener.open(packet, 0.0)
        assert opener.is_newest is (packet is sent[-1])
    assert all(refused(opener, packet) for packet in sent)


@pytest.mark.parametrize(("age", "is_taken"), [(1, True), (WINDOW - 1, True), (WINDOW, False), (WINDOW + 1, False)])
def test_the_window(age: int, is_taken: bool) -> None:
    sealer, opener = seals()
    old = sealer.seal(b"old")
    jump(sealer, age)
    opener.open(sealer.seal(b"new"), 0.0)
    assert refused(opener, old) is not is_taken


def test_a_forged_packet_does_not_move_the_window() -> None:
    sealer, opener = seals()
    waiting = [sealer.seal(b"waits") for _ in range(2)]
    opener.open(sealer.seal(b"first"), 0.0)
    for number in (3, 3 + WINDOW, PER_KEY - 1, PER_KEY, 2 * PER_KEY - 1, 2 * PER_KEY, 2**64 - 1):
        assert refused(opener, HEADER.pack(ID, number) + bytes(100))
    for packet in waiting:
        assert opener.open(packet, 0.0) == b"waits"
        assert not opener.is_newest


def test_numbers_that_were_skipped_may_still_come() -> None:
    """All places of the window were used before, and the second jump passes its end."""
    sealer, opener = seals()
    sent = [sealer.seal(b"x") for _ in range(2 * WINDOW + 101)]
    for number in [*range(WINDOW + 150), WINDOW + 1000, 2 * WINDOW + 100]:
        opener.open(sent[number], 0.0)
    for number in [*range(WINDOW + 150, WINDOW + 1000), *range(WINDOW + 1001, 2 * WINDOW + 100)]:
        opener.open(sent[number], 0.0)
    assert all(refused(opener, packet) for packet in sent)


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=60), st.integers(0, 2 * WINDOW))
def test_the_window_is_that_of_a_set(numbers: list[int], start: int) -> None:
    """Whatever comes in whatever order: the answer is that of the simplest code that one can think of."""
    sealer, opener = seals()
    seen: set[int] = set()
    highest = -1
    for number in [start, *(start + number for number in numbers), *numbers]:
        sealer._number = number
        is_taken = number not in seen and number > highest - WINDOW
        assert refused(opener, sealer.seal(b"x")) is not is_taken
        if is_taken:
            assert opener.is_newest is (number > highest)
            seen.add(number)
            highest = max(highest, number)


# Keys


@pytest.mark.parametrize("cipher", CIPHERS)
def test_the_next_key(cipher: Cipher, counted: dict[str, int]) -> None:
    sealer, opener = seals(cipher=cipher)
    jump(sealer, PER_KEY - 1)
    late = sealer.seal(b"last of the first")
    first = sealer.seal(b"first of the second")
    assert number_of(first) == PER_KEY
    assert opener.open(first, 0.0) == b"first of the second"
    assert opener.open(late, 9.0) == b"last of the first"
    assert counted["keys"] == 4
    for key in range(2, 5):
        jump(sealer, key * PER_KEY)
        assert opener.open(sealer.seal(b"%d" % key), 0.0) == b"%d" % key
    assert len(opener._aeads) == 2


def test_the_key_before_is_forgotten() -> None:
    sealer, opener = seals()
    jump(sealer, PER_KEY - 2)
    late = [sealer.seal(b"late") for _ in range(2)]
    opener.open(sealer.seal(b"new"), 100.0)
    opener.tick(100.0 + KEY_OVERLAP - 0.01)
    assert opener.open(late[0], 0.0) == b"late"
    opener.tick(100.0 + KEY_OVERLAP)
    assert refused(opener, late[1])
    assert opener.open(sealer.seal(b"more"), 0.0) == b"more"
    assert len(opener._aeads) == 1


def test_a_key_that_waits_survives_the_one_before() -> None:
    """A stranger names the key after next just when the key before the present one goes."""
    sealer, opener = seals()
    jump(sealer, PER_KEY)
    opener.open(sealer.seal(b"x"), 0.0)
    assert refused(opener, HEADER.pack(ID, 2 * PER_KEY) + bytes(17))
    opener.tick(KEY_OVERLAP)
    jump(sealer, 2 * PER_KEY)
    assert opener.open(sealer.seal(b"y"), 20.0) == b"y"


def test_what_a_forged_packet_costs(counted: dict[str, int]) -> None:
    """At most one attempt to decrypt; and the next key once, whoever asks for it."""
    opener = seals()[1]
    counted["keys"] = 0
    for number in range(PER_KEY, PER_KEY + 100):
        before = counted["decrypted"]
        assert refused(opener, HEADER.pack(ID, number) + bytes(40))
        assert counted["decrypted"] == before + 1
    assert counted["keys"] == 1
    before = counted["decrypted"]
    for number in (2 * PER_KEY, 2**63, 2**64 - 1):
        assert refused(opener, HEADER.pack(ID, number) + bytes(40))
    assert counted == {"keys": 1, "decrypted": before}


def test_a_replayed_packet_costs_nothing(counted: dict[str, int]) -> None:
    sealer, opener = seals()
    packet = sealer.seal(b"x")
    opener.open(packet, 0.0)
    before = dict(counted)
    assert refused(opener, packet)
    assert counted == before


def test_a_forged_packet_of_the_next_key_keeps_the_present_one() -> None:
    sealer, opener = seals()
    opener.open(sealer.seal(b"x"), 0.0)
    assert refused(opener, HEADER.pack(ID, PER_KEY) + bytes(40))
    opener.tick(1000.0)
    assert opener.open(sealer.seal(b"y"), 0.0) == b"y"
    jump(sealer, PER_KEY)
    assert opener.open(sealer.seal(b"z"), 0.0) == b"z"


def test_too_many_forged_packets(monkeypatch: pytest.MonkeyPatch, counted: dict[str, int]) -> None:
    """Beyond that a forger's chances would no longer be negligible (RFC 9147, section 4.5.3)."""
    monkeypatch.setattr(packets, "MOST_FORGED", 3)
    sealer, opener = seals()
    packet = sealer.seal(b"x")
    opener.open(packet, 0.0)
    for number in range(1, 4):
        assert refused(opener, packet)  # no attempt, so it does not count
        assert opener.open(sealer.seal(b"y"), 0.0) == b"y"
        assert refused(opener, HEADER.pack(ID, 1000 + number) + bytes(17))
    before = counted["decrypted"]
    assert refused(opener, sealer.seal(b"z"))
    assert counted["decrypted"] == before


@settings(max_examples=examples(20))
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=12), st.sampled_from(CIPHERS), st.randoms(use_true_random=False)
)
def test_small_keys(runs: list[int], cipher: Cipher, random: Any) -> None:
    """Eight packets a key, shuffled within half of that: all come, once, under the key of their number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packets, "KEY_SHIFT", 3)
        sealer, opener = seals(cipher=cipher)
        for run in runs:
            sent = [(b"%d" % number, sealer.seal(b"%d" % number)) for number in range(run)]
            for start in range(0, run, 4):
                some = sent[start : start + 4]
                random.shuffle(some)
                for message, packet in some:
                    assert opener.open(packet, 0.0) == message
                    assert refused(opener, packet)
