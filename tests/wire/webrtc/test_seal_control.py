"""Binds and refusals, however they are cut."""

from __future__ import annotations

import json
import struct
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import Code
from rtunnel.tls.hedge.second import MOST_PROOF
from rtunnel.wire.webrtc.seal_control import (
    MAX_MESSAGE,
    MAX_SECOND,
    Bind,
    Messages,
    Refusal,
    encode_bind,
    encode_refusal,
)

DIGESTS = st.binary(min_size=32, max_size=32)


def framed(value: object) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("!I", len(text)) + text


@given(DIGESTS, DIGESTS, DIGESTS, st.one_of(st.just(b""), DIGESTS), st.integers(1, 50))
def test_binds_cut_anywhere(host: bytes, client: bytes, keys: bytes, confirm: bytes, step: int) -> None:
    bind = Bind(host, client, keys, confirm)
    data = encode_bind(bind) + encode_refusal(Code.UNAUTHORIZED, "who are you?")
    messages = Messages()
    found = [one for at in range(0, len(data), step) for one in messages.feed(data[at : at + step])]
    assert found == [bind, Refusal("unauthorized", "who are you?")]


def test_bytes_of_a_bind() -> None:
    text = b'{"dtls":{"host":"' + b"01" * 32 + b'","client":"' + b"02" * 32 + b'"},"keys":"' + b"03" * 32
    text += b'","confirm":"' + b"04" * 32 + b'","second":"BQU="}'
    bind = Bind(b"\1" * 32, b"\2" * 32, b"\3" * 32, b"\4" * 32, b"\5\5")
    assert encode_bind(bind) == struct.pack("!I", len(text)) + text
    assert Messages().feed(encode_bind(bind)) == [bind]


def test_the_longest_proof_fits() -> None:
    assert MOST_PROOF <= MAX_SECOND
    bind = Bind(bytes(32), bytes(32), bytes(32), bytes(32), b"\xff" * MAX_SECOND)
    assert len(encode_bind(bind)) <= 4 + MAX_MESSAGE
    assert Messages().feed(encode_bind(bind)) == [bind]


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (5, "is not text"),
        (None, "is not text"),
        ("=", "is not base64"),
        ("AAAA AAAA", "is not base64"),
        ("AAAAA", "is not base64"),
        ("\u00e4AAA", "is not base64"),
        ("A" * (4 * MAX_SECOND // 3 + 4 & ~3), f"has more than {MAX_SECOND} bytes"),
    ],
)
def test_malformed_proofs(second: object, why: str) -> None:
    value = {"dtls": {"host": "0" * 64, "client": "0" * 64}, "keys": "1" * 64, "second": second}
    with pytest.raises(ValueError, match=rf"^a bind whose second {why}$"):
        Messages().feed(framed(value))


def test_a_refusal_is_cleaned() -> None:
    assert Messages().feed(framed({"refused": "x\ny", "message": "a\n\x1b[2Jb"})) == [
        Refusal("x?y", r"a\n\x1b[2Jb"),
    ]
    assert Messages().feed(framed({"refused": "", "message": 5})) == [Refusal("unknown", "")]


def test_messages_of_a_later_version() -> None:
    bind = {"dtls": {"host": "0" * 64, "client": "1" * 64, "relay": "x"}, "keys": "2" * 64, "services": ["web"]}
    assert Messages().feed(framed({"news": 1}) + framed(bind)) == [None, Bind(bytes(32), b"\x11" * 32, b"\x22" * 32)]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "a message that is not JSON"),
        (b"\xff", "a message that is not JSON"),
        (b"NaN", "a message that is not JSON"),
        (b"[" * 10_000, "a message that is not JSON"),
        ([], "a message that is not a JSON object"),
        ({"refused": 5}, "a refusal whose code is not text"),
        ({"dtls": "x"}, "a bind without the certificates that its sender sees"),
        ({"dtls": {}}, "a bind whose host is not 32 bytes"),
        ({"dtls": {"host": "0" * 64}}, "a bind whose client is not 32 bytes"),
        ({"dtls": {"host": "0" * 64, "client": "g" * 64}}, "a bind whose client is not 32 bytes"),
        ({"dtls": {"host": "0" * 64, "client": " " * 64}}, "a bind whose client is not 32 bytes"),
        ({"dtls": {"host": "0" * 64, "client": "0" * 64}}, "a bind whose keys is not 32 bytes"),
        (
            {"dtls": {"host": "0" * 64, "client": "0" * 64}, "keys": "1" * 64, "confirm": None},
            "a bind whose confirm is not 32 bytes",
        ),
    ],
)
def test_malformed(value: object, why: str) -> None:
    with pytest.raises(ValueError, match=rf"^{why}$"):
        Messages().feed(framed(value))


def test_one_that_is_too_long_is_not_waited_for() -> None:
    with pytest.raises(ValueError, match=rf"^a message of {MAX_MESSAGE + 1} bytes$"):
        Messages().feed(struct.pack("!I", MAX_MESSAGE + 1))


@given(st.binary(max_size=200))
def test_noise(noise: bytes) -> None:
    with suppress(ValueError):
        assert len(Messages().feed(noise)) <= len(noise) // 4
