"""The text messages of a data channel: they can be encoded and decoded, and bad ones raise ``ValueError`` only."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import Code
from rtunnel.wire.credit import MAX_OFFSET
from rtunnel.wire.webrtc.channel_messages import (
    MAX_CONTROL,
    Control,
    decode_control,
    encode_credit,
    encode_fin,
    encode_reset,
)


def test_what_they_look_like() -> None:
    assert json.loads(encode_credit(65536)) == {"credit": 65536}
    assert json.loads(encode_fin(0)) == {"fin": 0}
    assert json.loads(encode_reset(Code.LIMIT, "")) == {"reset": "limit"}
    assert json.loads(encode_reset("limit", "too many")) == {"reset": "limit", "message": "too many"}


@given(st.integers(0, MAX_OFFSET))
def test_offsets_come_back(offset: int) -> None:
    assert decode_control(encode_credit(offset).encode()) == Control(credit=offset)
    assert decode_control(encode_fin(offset).encode()) == Control(fin=offset)


@given(st.sampled_from(Code), st.text(st.characters(codec=None), max_size=300))
def test_resets_come_back(code: Code, message: str) -> None:
    text = encode_reset(code, message).encode()
    assert len(text) <= MAX_CONTROL
    control = decode_control(text)
    assert (control.reset, control.credit, control.fin) == (code, None, None)
    assert len(control.message) <= 200
    if message.isascii() and message.isprintable():
        assert control.message == message[:200]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{}", Control()),
        (b'{"ping": 1, "color": null}', Control()),
        (b'{"credit": 7, "more": [1, {"credit": 9}]}', Control(credit=7)),
        (b' {"fin"\n: 3, "credit": 4} ', Control(credit=4, fin=3)),
        (b'{"credit": 1, "credit": 2}', Control(credit=2)),
        (b'{"reset": ""}', Control(reset="unknown")),
        (b'{"reset": "limit", "message": 5}', Control(reset="limit")),
        (b'{"reset": "a\\nb\\u001b[31m", "message": "\\ud800 \\u0000"}', Control(reset="a?b?[31m", message="? ?")),
    ],
)
def test_read(text: bytes, expected: Control) -> None:
    assert decode_control(text) == expected


HOSTILE = [
    b"",
    b"credit",
    b"\xff\xfe",
    b'{"credit": 5',
    b'{"credit": 5}{"credit": 6}',
    b"[]",
    b"7",
    b"null",
    b'"fin"',
    b"NaN",
    b'{"credit": NaN}',
    b'{"x": Infinity}',
    b'{"credit": -1}',
    b'{"credit": -0.0}',
    b'{"credit": 5.0}',
    b'{"credit": 1e3}',
    b'{"credit": true}',
    b'{"credit": null}',
    b'{"credit": "5"}',
    b'{"credit": [5]}',
    b'{"credit": %d}' % (MAX_OFFSET + 1),
    b'{"credit": 99999999999999999999999999999999}',
    b'{"credit": ' + b"9" * 4000 + b"}",
    b'{"credit": ' + b"9" * 5000 + b"}",
    b'{"fin": -1}',
    b'{"fin": false}',
    b'{"fin": {}}',
    b'{"credit": 5, "fin": "x"}',
    b'{"reset": 5}',
    b'{"reset": null}',
    b'{"reset": ["limit"]}',
    b'{"a":' * 600 + b"1" + b"}" * 600 + b"]",
    b"[" * 4000,
    b'{"a": "' + b"x" * MAX_CONTROL + b'"}',
]
"""Texts that are not control messages."""


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:30]))
def test_hostile(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^an? [a-zA-Z0-9 ]+$"):
        decode_control(text)


@given(st.binary(max_size=200))
def test_any_bytes(text: bytes) -> None:
    with suppress(ValueError):
        decode_control(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["credit", "fin", "reset", "message", "x"]), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["credit", "fin", "reset", "message", "x"]), JSON))
def test_any_object(value: dict[str, object]) -> None:
    try:
        control = decode_control(json.dumps(value).encode())
    except ValueError:
        return
    for key, offset in (("credit", control.credit), ("fin", control.fin)):
        assert offset == value.get(key)
        assert offset is None or (type(offset) is int and 0 <= offset <= MAX_OFFSET)
    assert (control.reset is not None) == ("reset" in value)
    assert len(control.message) <= 200
