"""The decoder returns the same frames however the bytes are cut, and never holds more than one frame."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import FrameTooLarge
from rtunnel.wire import frames
from rtunnel.wire.frames import Frame, FrameDecoder, encode_frame, frame_name
from tests.wire.pair import HEADER, parse, raw

MAX = 300

TYPES = st.sampled_from([frames.DATA, frames.DATA, *frames.NAMES]) | st.integers(0, 255)
IDS = st.sampled_from([0, 1, 2, 2**32 - 1]) | st.integers(0, 2**32 - 1)
FRAMES = st.lists(st.tuples(TYPES, IDS, st.binary(max_size=MAX) | st.just(bytes(MAX))), max_size=12)


def joined(found: list[Frame]) -> list[Frame]:
    """Join adjacent pieces of one stream, and leave out empty DATA."""
    out: list[Frame] = []
    for frame_type, conn_id, payload in found:
        if frame_type == frames.DATA:
            if not payload:
                continue
            if out and out[-1][:2] == (frame_type, conn_id):
                payload = out.pop()[2] + payload
        out.append((frame_type, conn_id, payload))
    return out


@given(FRAMES, st.lists(st.integers(0, 4000), max_size=20))
def test_cut_anywhere(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(encode_frame(*frame) for frame in sent)
    assert parse(data) == sent
    decoder = FrameDecoder(MAX)
    found = []
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(places):
        found += decoder.feed(data[start:end])
        assert len(decoder._held) < HEADER.size + MAX
    assert joined(found) == joined(sent)
    assert decoder._held == b""


@given(FRAMES)
def test_byte_by_byte(sent: list[Frame]) -> None:
    decoder = FrameDecoder(MAX)
    found = []
    for byte in b"".join(encode_frame(*frame) for frame in sent):
        found += decoder.feed(bytes([byte]))
    assert joined(found) == joined(sent)


#: Any bytes, or the head of a frame that is not too large, which any bytes hardly ever are.
ANY = st.binary(max_size=80) | st.builds(HEADER.pack, TYPES, IDS, st.integers(0, 40))


@given(st.lists(ANY, max_size=20))
def test_any_bytes_give_frames_or_a_peer_error(chunks: list[bytes]) -> None:
    decoder = FrameDecoder(MAX)
    found: list[Frame] = []
    with suppress(FrameTooLarge):
        for chunk in chunks:
            found += decoder.feed(chunk)
            assert all(len(payload) <= MAX for _, _, payload in found)
            assert len(decoder._held) < HEADER.size + MAX


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x80000000, MAX + 1])
def test_too_long_of_every_type(length: int) -> None:
    for frame_type in range(256):
        with pytest.raises(FrameTooLarge, match=f"of {length} bytes; the limit is {MAX}"):
            FrameDecoder(MAX).feed(HEADER.pack(frame_type, 1, length))


def test_too_long_is_known_as_soon_as_the_header_is() -> None:
    decoder = FrameDecoder(MAX)
    header = HEADER.pack(frames.DATA, 1, 0xFFFFFFFF)
    for byte in header[:-1]:
        assert decoder.feed(bytes([byte])) == []
    with pytest.raises(FrameTooLarge):
        decoder.feed(header[-1:])


def test_the_longest_of_every_type() -> None:
    for frame_type in range(256):
        assert FrameDecoder(MAX).feed(raw(frame_type, 1, bytes(MAX))) == [(frame_type, 1, bytes(MAX))]


def test_data_is_not_held_back() -> None:
    decoder = FrameDecoder(65536)
    assert decoder.feed(HEADER.pack(frames.DATA, 5, 65536) + b"a") == [(frames.DATA, 5, b"a")]
    assert decoder.feed(b"bc") == [(frames.DATA, 5, b"bc")]
    rest = bytes(65533)
    ((_, _, piece),) = decoder.feed(rest)
    assert piece is rest, "a chunk inside of a DATA frame is handed on without a copy"
    assert decoder.feed(raw(frames.CLOSE_CONN, 5)) == [(frames.CLOSE_CONN, 5, b"")]


def test_move() -> None:
    """The bytes of docs/wire.rst, "A stream that moves"."""
    found = bytes.fromhex("1a 00000007 00000008 0000000000010003")
    assert FrameDecoder(MAX).feed(found) == [(frames.MOVE, 7, (65539).to_bytes(8, "big"))]
    assert frames.encode_frame(frames.MOVE, 7, (65539).to_bytes(8, "big")) == found


def test_empty_frames() -> None:
    decoder = FrameDecoder(0)
    assert decoder.feed(raw(frames.DATA, 1) + raw(frames.NEW_CONN, 2)) == [(frames.NEW_CONN, 2, b"")]
    assert decoder.feed(b"") == []


def test_names() -> None:
    assert frame_name(frames.CLOSE_CONN) == "CLOSE_CONN"
    assert frame_name(0x99) == "type 0x99"
    assert len(set(frames.NAMES.values())) == len(frames.NAMES) == 18
