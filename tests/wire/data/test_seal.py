"""One direction's seal: what the other end has not sealed, as the next record, is refused."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from rtunnel.wire.data import seal
from rtunnel.wire.data.seal import BYTES_PER_KEY, RECORDS_PER_KEY, TAG, Cipher, Seal, expand
from tests.examples import examples

SECRET = bytes(range(32))
OTHER = bytes(range(1, 33))
CIPHERS = [Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305]
HEADER = b"\1\0\0\x20\0\0\0\7"

Record = tuple[bytes, bytes]
"""A header, and a payload, sealed or not."""

RECORDS = st.lists(st.tuples(st.binary(min_size=8, max_size=8), st.binary(max_size=60)), min_size=1, max_size=8)


def sealed(sender: Seal, payload: bytes, header: bytes = HEADER) -> bytes:
    out = bytearray(len(payload) + TAG)
    sender.seal(header, payload, memoryview(out))
    return bytes(out)


def unsealed(receiver: Seal, data: bytes, header: bytes = HEADER) -> bytes:
    out = bytearray(max(len(data) - TAG, 0))
    receiver.unseal(header, data, memoryview(out))
    return bytes(out)


def is_refused(receiver: Seal, data: bytes, header: bytes = HEADER) -> bool:
    try:
        unsealed(receiver, data, header)
    except ValueError:
        return True
    return False


@given(st.sampled_from(CIPHERS), RECORDS)
def test_there_and_back(cipher: Cipher, records: list[Record]) -> None:
    sender, receiver = Seal(SECRET, cipher), Seal(SECRET, cipher)
    for header, payload in records:
        data = sealed(sender, payload, header)
        assert len(data) == len(payload) + TAG
        assert unsealed(receiver, data, header) == payload


@pytest.mark.parametrize("cipher", CIPHERS)
def test_parts_of_one_buffer(cipher: Cipher) -> None:
    """No bytes are touched beside those that belong to the record, and no type of buffer is refused."""
    source, target = bytearray(b"<<" + HEADER + b"payload>>"), bytearray(b"." * 60)
    view, room = memoryview(source), memoryview(target)
    Seal(SECRET, cipher).seal(view[2:10], view[10:17], room[5 : 5 + 7 + TAG])
    assert target[:5] + target[5 + 7 + TAG :] == b"." * (60 - 7 - TAG)
    assert target[5 : 5 + 7 + TAG] == sealed(Seal(SECRET, cipher), b"payload")
    back = bytearray(b"." * 20)
    Seal(SECRET, cipher).unseal(view[2:10], room[5 : 5 + 7 + TAG], memoryview(back)[3:10])
    assert back == b"...payload.........."


def damage_bit(records: list[Record], at: int, number: int) -> list[Record]:
    header, data = records[at]
    whole = bytearray(header + data)
    bit = number % (len(whole) * 8)
    whole[bit // 8] ^= 1 << bit % 8
    return [*records[:at], (bytes(whole[:8]), bytes(whole[8:])), *records[at + 1 :]]


def swap(records: list[Record], at: int, number: int) -> list[Record]:
    other = number % len(records)
    changed = list(records)
    changed[at], changed[other] = changed[other], changed[at]
    return changed


def repeat(records: list[Record], at: int, number: int) -> list[Record]:
    to = number % (len(records) + 1)
    return [*records[:to], records[at], *records[to:]]


def leave_out(records: list[Record], at: int, number: int) -> list[Record]:
    return records[:at] + records[at + 1 :]


def cut(records: list[Record], at: int, number: int) -> list[Record]:
    header, data = records[at]
    return [*records[:at], (header, data[: number % (len(data) or 1)]), *records[at + 1 :]]


def lengthen(records: list[Record], at: int, number: int) -> list[Record]:
    header, data = records[at]
    return [*records[:at], (header, data + bytes(1 + number % 20)), *records[at + 1 :]]


def exchange_payloads(records: list[Record], at: int, number: int) -> list[Record]:
    """Give one record the sealed payload of another."""
    other = records[number % len(records)]
    return [*records[:at], (records[at][0], other[1]), *records[at + 1 :]]


DAMAGES = st.sampled_from([damage_bit, swap, repeat, leave_out, cut, lengthen, exchange_payloads])


@given(
    st.sampled_from(CIPHERS),
    RECORDS,
    st.lists(st.tuples(DAMAGES, st.integers(0, 7), st.integers(0, 10**6)), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(1, 200),
)
@settings(max_examples=examples(300))
def test_whatever_was_not_sealed_next_is_refused(
    cipher: Cipher,
    records: list[Record],
    damages: list[tuple[Callable[[list[Record], int, int], list[Record]], int, int]],
    records_per_key: int,
    bytes_per_key: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seal, "RECORDS_PER_KEY", records_per_key)
        patch.setattr(seal, "BYTES_PER_KEY", bytes_per_key)
        sender = Seal(SECRET, cipher)
        sent = [(header, sealed(sender, payload, header)) for header, payload in records]
        came = sent
        for damage, at, number in damages:
            if came:
                came = damage(came, at % len(came), number)
        receiver = Seal(SECRET, cipher)
        for index, (header, data) in enumerate(came):
            if index < len(sent) and (header, data) == sent[index]:
                assert unsealed(receiver, data, header) == records[index][1]
            else:
                assert is_refused(receiver, data, header)
                break


@pytest.mark.parametrize("cipher", CIPHERS)
def test_only_the_same_secret_and_cipher(cipher: Cipher) -> None:
    data = sealed(Seal(SECRET, cipher), b"payload")
    assert is_refused(Seal(OTHER, cipher), data)
    assert is_refused(Seal(SECRET, next(other for other in CIPHERS if other is not cipher)), data)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_equal_records_do_not_look_alike(cipher: Cipher) -> None:
    sender = Seal(SECRET, cipher)
    assert len({sealed(sender, b"payload") for _ in range(100)}) == 100


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_record_of_no_bytes_is_authentic_too(cipher: Cipher) -> None:
    data = sealed(Seal(SECRET, cipher), b"")
    assert unsealed(Seal(SECRET, cipher), data) == b""
    for length in range(TAG):
        assert is_refused(Seal(SECRET, cipher), data[:length])
    assert is_refused(Seal(SECRET, cipher), bytes(TAG))


def test_a_nonce_is_used_up_by_an_error() -> None:
    sender = Seal(SECRET, Cipher.AES_256_GCM)
    with pytest.raises(ValueError, match="must be"):
        sender.seal(HEADER, b"payload", memoryview(bytearray(7)))
    receiver = Seal(SECRET, Cipher.AES_256_GCM)
    sealed(Seal(SECRET, Cipher.AES_256_GCM), b"payload")
    assert is_refused(receiver, sealed(sender, b"payload")), "it was sealed as the second one"


def test_no_seal_without_a_cipher() -> None:
    with pytest.raises(KeyError):
        Seal(SECRET, Cipher.NONE)


# The next key


def test_the_bounds() -> None:
    assert RECORDS_PER_KEY == 2**20
    assert BYTES_PER_KEY == 2**36


@pytest.mark.parametrize("cipher", CIPHERS)
def test_next_key_after_so_many_records(cipher: Cipher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "RECORDS_PER_KEY", 3)
    sender, receiver = Seal(SECRET, cipher), Seal(SECRET, cipher)
    data = [sealed(sender, b"payload") for _ in range(7)]
    second = expand(SECRET, b"next")
    # Each key seals as one that has just begun.
    for start, secret in ((0, SECRET), (3, second), (6, expand(second, b"next"))):
        fresh = Seal(secret, cipher)
        part = data[start : start + 3]
        assert part == [sealed(fresh, b"payload") for _ in part]
    assert [unsealed(receiver, each) for each in data] == [b"payload"] * 7


@pytest.mark.parametrize("cipher", CIPHERS)
def test_next_key_after_so_many_bytes(cipher: Cipher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "BYTES_PER_KEY", 100)
    sender, receiver = Seal(SECRET, cipher), Seal(SECRET, cipher)
    payloads = [b"x" * length for length in (99, 0, 1, 0, 300, 5)]
    data = [sealed(sender, payload) for payload in payloads]
    secrets = [SECRET]
    secrets += [expand(secrets[-1], b"next")]
    secrets += [expand(secrets[-1], b"next")]
    # 99 + 0 + 1 bytes are enough for the first key, and one large record is for the second.
    for secret, indices in zip(secrets, [(0, 1, 2), (3, 4), (5,)], strict=True):
        fresh = Seal(secret, cipher)
        assert [data[index] for index in indices] == [sealed(fresh, payloads[index]) for index in indices]
    assert [unsealed(receiver, each) for each in data] == payloads


@given(
    st.sampled_from(CIPHERS),
    st.lists(st.integers(0, 60), max_size=30),
    st.integers(1, 5),
    st.integers(1, 100),
    st.sets(st.integers(0, 29)),
    st.sets(st.integers(0, 29)),
)
def test_rest_changes_nothing(
    cipher: Cipher,
    lengths: list[int],
    records_per_key: int,
    bytes_per_key: int,
    sender_rests: set[int],
    receiver_rests: set[int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seal, "RECORDS_PER_KEY", records_per_key)
        patch.setattr(seal, "BYTES_PER_KEY", bytes_per_key)
        plain, sender, receiver = (Seal(SECRET, cipher) for _ in range(3))
        for index, length in enumerate(lengths):
            if index in sender_rests:
                sender.rest()
            if index in receiver_rests:
                receiver.rest()
                receiver.rest()
            data = sealed(sender, b"x" * length)
            assert data == sealed(plain, b"x" * length)
            assert unsealed(receiver, data) == b"x" * length


def test_when_many_are_awake_those_that_are_not_used_are_put_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "_awake", deque())
    monkeypatch.setattr(seal, "MOST_AWAKE", 4)
    used = Seal(SECRET, Cipher.AES_256_GCM)
    crowd = []
    for _ in range(100):
        crowd.append(Seal(SECRET, Cipher.AES_256_GCM))
        sealed(crowd[-1], b"first")
        sealed(used, b"again")

    awake = [each for each in (*crowd, used) if each._records]

    assert used in awake
    assert len(awake) <= 8
    assert len(seal._awake) <= 8


@given(st.sampled_from(CIPHERS), st.integers(0, 3), st.lists(st.integers(0, 5), max_size=60))
def test_any_number_of_seals_that_take_turns(cipher: Cipher, most: int, turns: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seal, "_awake", deque())
        patch.setattr(seal, "MOST_AWAKE", most)
        patch.setattr(seal, "RECORDS_PER_KEY", 3)
        ends = [(Seal(SECRET, cipher), Seal(SECRET, cipher)) for _ in range(6)]
        for turn in turns:
            sender, receiver = ends[turn]
            assert unsealed(receiver, sealed(sender, b"record")) == b"record"


def test_seals_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "_awake", deque())
    monkeypatch.setattr(seal, "MOST_AWAKE", 4)
    for _ in range(100):
        Seal(SECRET, Cipher.AES_256_GCM)
    assert len(seal._awake) <= 5
