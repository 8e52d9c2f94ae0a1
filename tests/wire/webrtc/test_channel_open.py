"""The message that opens a data channel."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.webrtc.channel_open import MAX_NAME, decode_open, encode_open


@given(st.text(max_size=MAX_NAME // 4), st.text(max_size=MAX_NAME // 4), st.booleans())
def test_what_is_encoded_is_decoded(label: str, protocol: str, reliable: bool) -> None:
    assert decode_open(encode_open(label, protocol, reliable)) == (label, protocol, reliable)


def test_as_rfc_8832_has_it() -> None:
    assert encode_open("tcp-x", "web", True) == b"\x03\x00\x00\x00\0\0\0\0\x00\x05\x00\x03tcp-xweb"
    assert encode_open("u", "", False) == b"\x03\x81\x00\x00\0\0\0\0\x00\x01\x00\x00u"


@pytest.mark.parametrize("kind", [0x01, 0x02, 0x80, 0x81, 0x82, 0x55])
def test_only_reliable_and_ordered_is_reliable(kind: int) -> None:
    assert decode_open(struct.pack("!BBHLHH", 3, kind, 7, 100, 1, 0) + b"x") == ("x", "", False)


@pytest.mark.parametrize(
    ("label", "protocol", "why"),
    [
        (b"x" * 1025, b"", "its label is longer than 1024 bytes"),
        (b"x", b"y" * 65535, "its protocol is longer than 1024 bytes"),
        (b"\xff", b"", "its label is not UTF-8"),
        (b"x", b"\xc3", "its protocol is not UTF-8"),
    ],
)
def test_names_that_cannot_be_used(label: bytes, protocol: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        decode_open(struct.pack("!BBHLHH", 3, 0, 0, 0, len(label), len(protocol)) + label + protocol)


@given(st.binary(max_size=40))
def test_whatever_comes(data: bytes) -> None:
    with suppress(ValueError):
        decode_open(b"\x03" + data)


def test_cut_off_anywhere() -> None:
    message = encode_open("label", "protocol", True)
    for length in range(len(message)):
        with pytest.raises(ValueError, match="cut off"):
            decode_open(message[:length])
