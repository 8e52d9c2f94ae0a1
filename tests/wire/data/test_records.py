"""Records, cut anywhere: what was sent comes out, and what is too long, malformed or changed is refused."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from rtunnel.errors import Code
from rtunnel.wire.data import records
from rtunnel.wire.data.records import (
    MAX_CONTROL,
    MAX_PLAIN,
    MAX_SEALED,
    MAX_UNPROVED,
    READ_SIZE,
    PlainReader,
    Reader,
    SealedReader,
    decode_opening,
    decode_reason,
    encode_opening,
    encode_reason,
)
from rtunnel.wire.data.seal import TAG, Cipher, Seal
from rtunnel.wire.messages import MAX_TEXT
from tests.examples import examples
from tests.wire.data.ends import (
    ALIVE,
    DATA,
    DONE,
    END,
    HEADER,
    OPEN,
    RESET,
    Record,
    feed,
    opening,
    raw,
    sealed,
    seals,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "wire.rst"
NUMBERS = st.sampled_from([0, 1, 7, 2**32 - 1]) | st.integers(0, 2**32 - 1)
RECORDS = st.lists(
    st.one_of(
        st.tuples(st.just(DATA), NUMBERS, st.binary(min_size=1, max_size=60)),
        st.tuples(st.sampled_from([END, ALIVE, DONE]), NUMBERS, st.just(b"")),
        st.tuples(st.sampled_from([RESET, OPEN, 0x07, 0x85, 0xFF]), NUMBERS, st.binary(max_size=60)),
    ),
    max_size=8,
)
CUTS = st.lists(st.integers(0, 600), max_size=12)
CIPHERS = st.sampled_from([Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305])


def joined(found: list[Record]) -> list[Record]:
    """Join neighbouring pieces of DATA of one stream."""
    result: list[Record] = []
    for (kind, number), group in groupby(found, lambda record: record[:2]):
        payloads = [payload for _, _, payload in group]
        result += [(kind, number, b"".join(payloads))] if kind == DATA else [(kind, number, one) for one in payloads]
    return result


def sealed_pair(cipher: Cipher = Cipher.AES_256_GCM) -> tuple[Seal, SealedReader]:
    """Return the seal of an end, and the reader of the other one, to which it has proved itself."""
    (sender, _), (_, receiver) = seals(cipher)
    reader = SealedReader(receiver)
    return sender, reader


def refusal(reader: Reader, data: bytes) -> str:
    """Return why these bytes are refused; empty if they are not."""
    try:
        list(feed(reader, data))
    except ValueError as error:
        return str(error)
    return ""


# There and back


def test_the_bytes_of_a_record() -> None:
    assert raw(DATA, 7, b"hello") == bytes.fromhex("01000005 00000007 68656c6c6f")
    assert list(feed(PlainReader(), bytes.fromhex("01000005 00000007 68656c6c6f"))) == [(DATA, 7, b"hello")]
    assert HEADER.pack(DATA << 24 | 5, 7) == bytes.fromhex("01000005 00000007")


@given(RECORDS, CUTS)
def test_plain_records_cut_anywhere(sent: list[Record], cuts: list[int]) -> None:
    found = list(feed(PlainReader(), b"".join(raw(*record) for record in sent), cuts))
    assert joined(found) == joined(sent)


@given(CIPHERS, RECORDS, CUTS)
def test_sealed_records_cut_anywhere(cipher: Cipher, sent: list[Record], cuts: list[int]) -> None:
    sender, reader = sealed_pair(cipher)
    assert list(feed(reader, b"".join(sealed(sender, *record) for record in sent), cuts)) == sent
    assert reader.held == 0


@given(RECORDS, RECORDS, st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=40))
def test_readers_share_buffers_and_nothing_else(
    one: list[Record], other: list[Record], turns: list[tuple[bool, int]]
) -> None:
    sender, sealed_reader = sealed_pair()
    readers: list[Reader] = [PlainReader(), sealed_reader]
    data = [b"".join(raw(*record) for record in one), b"".join(sealed(sender, *record) for record in other)]
    found: list[list[Record]] = [[], []]
    for which, count in [*turns, (False, 10_000), (True, 10_000)]:
        piece, data[which] = data[which][:count], data[which][count:]
        found[which] += feed(readers[which], piece)
    assert joined(found[0]) == joined(one)
    assert found[1] == other


def test_plain_data_is_handed_on_as_it_comes() -> None:
    reader = PlainReader()
    data = raw(DATA, 7, b"0123456789")
    assert list(feed(reader, data[:8])) == []
    assert (reader.left, reader.number) == (10, 7)
    assert list(feed(reader, data[8:11])) == [(DATA, 7, b"012")]
    assert (reader.left, reader.held) == (7, 0)
    assert list(feed(reader, data[11:] + raw(END, 7))) == [(DATA, 7, b"3456789"), (END, 7, b"")]
    assert reader.left == 0


def test_what_was_moved_past_the_reader() -> None:
    """The socket splices a part of a plain record, and says so."""
    reader = PlainReader()
    data = raw(DATA, 7, bytes(100) + b"end") + raw(ALIVE)
    assert list(feed(reader, data[:18])) == [(DATA, 7, bytes(10))]
    reader.left -= 90
    assert list(feed(reader, data[108:])) == [(DATA, 7, b"end"), (ALIVE, 0, b"")]


def test_sealed_data_is_handed_on_only_when_it_is_authentic() -> None:
    sender, reader = sealed_pair()
    data = sealed(sender, DATA, 7, b"0123456789")
    for end in range(len(data)):
        piece = data[end : end + 1]
        assert list(feed(reader, piece)) == ([] if end < len(data) - 1 else [(DATA, 7, b"0123456789")])


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 100_000, READ_SIZE])
def test_the_longest_records(cut: int) -> None:
    longest = [(DATA, 1, b"d" * (MAX_SEALED - TAG)), (RESET, 1, b"r" * MAX_CONTROL), (DATA, 1, b"x")]
    sender, reader = sealed_pair()
    assert list(feed(reader, b"".join(sealed(sender, *record) for record in longest), [cut])) == longest
    longest[0] = (DATA, 1, b"d" * MAX_PLAIN)
    assert joined(list(feed(PlainReader(), b"".join(raw(*record) for record in longest), [cut]))) == longest


def test_a_read_is_never_empty() -> None:
    """An empty target would look like the end of the connection."""
    sender, reader = sealed_pair()
    data = sealed(sender, DATA, 1, b"x" * 300) * 2
    for end in range(300):
        assert len(reader.target()) > 0
        list(feed(reader, data[end : end + 1]))


# What is refused


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        (DATA, 0),
        (DATA, MAX_PLAIN + 1),
        (DATA, 0xFFFFFF),
        (END, 1),
        (ALIVE, 1),
        (DONE, 1),
        (RESET, MAX_CONTROL + 1),
        (OPEN, MAX_CONTROL + 1),
        (0x07, MAX_CONTROL + 1),
        (0x80, MAX_CONTROL + 1),
        (0xFF, 0xFFFFFF),
    ],
)
def test_refused_by_the_header_alone(kind: int, length: int) -> None:
    said = f"a record of kind 0x{kind:02x} of {length} bytes"
    assert refusal(PlainReader(), HEADER.pack(kind << 24 | length, 1)) == said
    _, reader = sealed_pair()
    announced = min(length + TAG, 0xFFFFFF)
    assert refusal(reader, HEADER.pack(kind << 24 | announced, 1)) in (said, f"a sealed record of {announced} bytes")
    assert reader.held <= HEADER.size


@pytest.mark.parametrize("length", [0, 1, TAG - 1, MAX_SEALED + 1, 0xFFFFFF])
def test_a_sealed_record_of_an_impossible_length(length: int) -> None:
    _, reader = sealed_pair()
    assert refusal(reader, HEADER.pack(DATA << 24 | length, 1)) == f"a sealed record of {length} bytes"


def test_before_the_other_end_is_proved_records_are_short() -> None:
    for payload, is_refused in ((MAX_UNPROVED - TAG, False), (MAX_UNPROVED - TAG + 1, True)):
        for kind in (DATA, RESET):
            sender, reader = sealed_pair()
            reader.most = MAX_UNPROVED
            assert bool(refusal(reader, sealed(sender, kind, 1, bytes(payload)))) is is_refused
    for length in (MAX_UNPROVED, MAX_UNPROVED + 1):
        plain = PlainReader()
        plain.most = MAX_UNPROVED
        assert bool(refusal(plain, raw(DATA, 1, bytes(length)))) is (length > MAX_UNPROVED)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.data())
def test_a_sealed_record_that_was_changed(payloads: list[bytes], data: st.DataObject) -> None:
    """One bit anywhere, the header included: what came before is right, and nothing else comes out."""
    sender, reader = sealed_pair()
    sent = [(OPEN, number, payload) for number, payload in enumerate(payloads)]
    stream = bytearray().join(sealed(sender, *record) for record in sent)
    bit = data.draw(st.integers(0, 8 * len(stream) - 1))
    stream[bit // 8] ^= 1 << bit % 8
    found = []
    with suppress(ValueError):  # or it waits for bytes of a longer record
        for record in feed(reader, bytes(stream), range(0, len(stream), 5)):
            found.append(record)  # noqa: PERF402
    assert found == sent[: len(found)]
    assert len(found) < len(sent)


@given(st.permutations(range(4)).filter(lambda order: order != [0, 1, 2, 3]))
def test_sealed_records_in_another_order(order: list[int]) -> None:
    sender, reader = sealed_pair()
    sent = [sealed(sender, DATA, 1, bytes([number])) for number in range(4)]
    assert refusal(reader, b"".join(sent[number] for number in order)) == "a record that is not authentic"


def test_a_plain_record_among_sealed_ones() -> None:
    for record in (raw(ALIVE), raw(DATA, 1, b"x" * 40), raw(RESET, 1, b"limit\0full"), raw(END, 1)):
        _, reader = sealed_pair()
        assert refusal(reader, record + bytes(40))


@given(st.lists(st.binary(max_size=60) | st.builds(raw, st.integers(0, 255), NUMBERS, st.binary(max_size=60))), CUTS)
@settings(max_examples=examples(300))
def test_any_bytes(pieces: list[bytes], cuts: list[int]) -> None:
    _, sealed_reader = sealed_pair()
    for reader in (PlainReader(), sealed_reader):
        said = ""
        try:
            for _ in feed(reader, b"".join(pieces), cuts):
                assert reader.held <= HEADER.size + MAX_SEALED
        except ValueError as error:
            said = str(error)
        assert said.isprintable()


def test_what_is_kept_is_bounded() -> None:
    """Of a plain record at most its header and the longest payload of a record that is not DATA."""
    reader = PlainReader()
    data = raw(RESET, 1, bytes(MAX_CONTROL))
    for end in range(len(data) - 1):
        assert list(feed(reader, data[end : end + 1])) == []
        assert reader.held == end + 1
    sender, sealed_reader = sealed_pair()
    data = sealed(sender, DATA, 1, bytes(MAX_SEALED - TAG))
    assert list(feed(sealed_reader, data[:-1])) == []
    assert sealed_reader.held == len(data) == HEADER.size + MAX_SEALED
    assert sealed_reader.taken == len(data)
    assert not reader.taken


def test_a_header_alone_takes_what_the_record_needs() -> None:
    reader = sealed_pair()[1]
    assert list(feed(reader, HEADER.pack(DATA << 24 | MAX_SEALED, 1))) == []
    assert reader.taken == reader.held == HEADER.size + MAX_SEALED


# Payloads


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.text(st.characters(exclude_categories=("C", "Z"))).filter(lambda text: len(text) <= MAX_TEXT),
)
def test_opening_there_and_back(tunnel: int, moved: int, visitor: str) -> None:
    payload = encode_opening(tunnel, moved, visitor)
    assert payload == opening(tunnel, moved, visitor.encode())
    assert decode_opening(payload) == (tunnel, moved, visitor)


@pytest.mark.parametrize("payload", [b"", bytes(7)])
def test_opening_that_is_cut(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"^a malformed OPEN record$"):
        decode_opening(payload)


@given(st.sampled_from(Code), st.text(st.characters(exclude_categories=("C", "Z")), max_size=MAX_TEXT))
def test_reason_there_and_back(code: Code, message: str) -> None:
    assert encode_reason(code, message) == code.encode() + b"\0" + message.encode()
    assert decode_reason(encode_reason(code, message)) == (code, message)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", ("unknown", "")),
        (b"\0", ("unknown", "")),
        (b"limit", ("limit", "")),
        (b"a\nb\0c\0d", ("a?b", "c?d")),
        (b"\xff\0\xff", ("\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}")),
        (b"x" * MAX_CONTROL, ("x" * MAX_TEXT, "")),
    ],
)
def test_reason_of_any_bytes(payload: bytes, reason: tuple[str, str]) -> None:
    assert decode_reason(payload) == reason


def test_a_long_reason_fits_into_a_record() -> None:
    payload = encode_reason(Code.LIMIT, "\u00e9" * MAX_CONTROL + "\ud800")
    assert len(payload) == MAX_CONTROL
    assert list(feed(PlainReader(), raw(RESET, 1, payload))) == [(RESET, 1, payload)]


@given(st.binary(max_size=300))
def test_texts_of_any_bytes_can_be_logged(payload: bytes) -> None:
    for text in (*decode_reason(payload), decode_opening(bytes(8) + payload)[2]):
        assert text.isprintable()
        assert len(text) <= MAX_TEXT


# The document


def test_the_examples_of_the_document() -> None:
    text = DOCUMENT.read_text()
    block = text[text.index("For example, stream 1 begins") :].split("::\n\n")[1].split("\n\n")[0]
    examples = [bytes.fromhex(re.split(r"\s{3,}", line.strip())[0]) for line in block.splitlines()]
    assert list(feed(PlainReader(), b"".join(examples))) == [
        (OPEN, 1, encode_opening(3, 0, "192.0.2.1:5000")),
        (DATA, 1, b"hello"),
        (END, 1, b""),
        (DONE, 1, b""),
        (RESET, 2, encode_reason("limit", "full")),
    ]


@pytest.mark.parametrize("name", ["DATA", "END", "RESET", "ALIVE", "OPEN", "DONE"])
def test_the_kinds_of_the_document(name: str) -> None:
    assert re.search(rf"^0x{getattr(records, name):02x}  +{name}  ", DOCUMENT.read_text(), re.MULTILINE)


def test_the_bounds_of_the_document() -> None:
    text = DOCUMENT.read_text()
    assert f"1 to {MAX_PLAIN:,} bytes of the stream; at most {MAX_SEALED - TAG:,} if records are sealed" in text
    assert f"at most {MAX_CONTROL} bytes: a visitor has come" in text
    assert f"   {HEADER.size + MAX_CONTROL} bytes; if sealed, 256 KiB and {HEADER.size + TAG} bytes" in text
