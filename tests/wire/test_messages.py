"""Payloads: good ones can be encoded and decoded, and bad ones raise ``ValueError`` only."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import Code
from rtunnel.wire import messages
from rtunnel.wire.messages import MAX_HELLO, MAX_TEXT, Hello, WireError, clean_text
from tests.wire.pair import SESSION

ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=MAX_TEXT)
PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z")), max_size=MAX_TEXT)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
#: Values that are not allowed in a HELLO.
MALFORMED: dict[str, list[Any]] = {
    "version": [None, 0, -1, True, 1.0, "1", [1], float("nan"), float("inf")],
    "initial_credit": [None, -1, True, 1.5, "65536", 2**62, 10**300, float("nan")],
    "session": [None, "", 5, SESSION[1:], SESSION + "0", SESSION.upper(), "g" * 32, ["0"] * 32, "\u0660" * 32]
    + [SESSION + number for number in ("+", "+12345", "+1+1", "+-1", "+\u0661", "-1")],
    "capabilities": [None, "withdraw", [1], [None], [["withdraw"]], {"withdraw": 1}, 5],
    "token": [5, True, [], {}, "\ud800"],
}
KEYS = st.sampled_from(
    [
        *MALFORMED,
        "agent",
        "tunnel",
        "visitor",
        "address",
        "scope",
        "code",
        "message",
        "first",
        "count",
        "expires",
        "ready",
        "why",
    ]
)
DECODERS: list[Callable[[bytes], object]] = [
    messages.decode_attach,
    messages.decode_hello,
    messages.decode_visitor,
    messages.decode_ready,
    messages.decode_error,
    messages.decode_tickets,
    messages.decode_state,
    messages.decode_notice,
]
NOT_AN_OBJECT = [b"", b"xy", b"\xff\xfe", b"[]", b"1", b"null", b'"text"', b"{", b"[" * 4096, b'{"a":' * 800, b"NaN"]


@given(st.text(st.characters()))
def test_clean_text_is_one_printable_line(text: str) -> None:
    clean = clean_text(text)
    assert clean.isprintable()
    assert len(clean) == min(len(text), MAX_TEXT)
    clean.encode("utf-8")


@pytest.mark.parametrize("bad", ["\n", "\r", "\x1b", "\0", "\x7f", "\x85", "\u2028", "\u202e", "\ud800", "\ufeff"])
def test_clean_text_replaces(bad: str) -> None:
    assert clean_text(f"a{bad}b c") == "a?b c"


def check_all_decoders(payload: bytes) -> None:
    """Check that decoding returns a value, or raises a ``ValueError`` whose text can be logged."""
    for decode in DECODERS:
        text = ""
        try:
            decode(payload)
        except ValueError as error:
            text = str(error)
        assert text.isprintable()


@given(st.binary(max_size=100))
def test_any_bytes(payload: bytes) -> None:
    check_all_decoders(payload)


@given(st.dictionaries(KEYS, JSON))
def test_any_json(value: dict[str, object]) -> None:
    check_all_decoders(json.dumps(value).encode("utf-8"))


@pytest.mark.parametrize("decode", DECODERS[2:])
@pytest.mark.parametrize("payload", NOT_AN_OBJECT)
def test_not_a_json_object(decode: Callable[[bytes], object], payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(not JSON|nested too deeply|not a JSON object)$"):
        decode(payload)


# HELLO


@given(
    st.integers(0, 2**62 - 1),
    st.integers(1, 2**31),
    PRINTABLE,
    st.frozensets(st.text(max_size=10), max_size=5),
    st.none() | st.text(max_size=30),
    st.none() | st.floats(0, 2**39),
    st.none() | st.floats(0, 2**39),
)
def test_hello_there_and_back(
    credit: int,
    version: int,
    agent: str,
    names: frozenset[str],
    token: str | None,
    time: float | None,
    dead_after: float | None,
) -> None:
    hello = Hello(SESSION, credit, version, agent, names, token, time, dead_after=dead_after)
    payload = messages.encode_hello(hello)
    assert messages.decode_hello(payload) == hello
    assert ("token" in json.loads(payload)) is (token is not None)
    assert ("time" in json.loads(payload)) is (time is not None)
    assert ("dead_after" in json.loads(payload)) is (dead_after is not None)


def hello_payload(**changes: object) -> bytes:
    return json.dumps({"version": 1, "session": SESSION, "initial_credit": 65536, **changes}).encode()


def test_hello_needs_three_keys_and_ignores_unknown_ones() -> None:
    assert messages.decode_hello(hello_payload(future={"a": [1]})) == Hello(SESSION, 65536)


@pytest.mark.parametrize("time", ["null", "true", '"1"', "[1]", "{}", "-1", "NaN", "Infinity", "1e999", "9" * 400])
@pytest.mark.parametrize("key", ["time", "dead_after"])
def test_hello_with_an_odd_time(key: str, time: str) -> None:
    payload = hello_payload()[:-1] + f', "{key}": {time}}}'.encode()
    assert messages.decode_hello(payload) == Hello(SESSION, 65536)


def test_hello_with_a_time() -> None:
    assert messages.decode_hello(hello_payload(time=1796000000)).time == 1796000000.0


def test_hello_with_hedges() -> None:
    hello = Hello(SESSION, 65536, hedge=("FrodoKEM-1344-AES", "x"))
    payload = messages.encode_hello(hello)
    assert json.loads(payload)["hedge"] == ["FrodoKEM-1344-AES", "x"]
    assert messages.decode_hello(payload) == hello
    assert "hedge" not in json.loads(messages.encode_hello(Hello(SESSION, 65536)))


@pytest.mark.parametrize("hedge", [None, "FrodoKEM-1344-AES", 5, {}, [5], ["a", None], ["x" * 65], ["x"] * 17, [["x"]]])
def test_hello_with_odd_hedges(hedge: object) -> None:
    assert messages.decode_hello(hello_payload(hedge=hedge)).hedge == ()


def test_hello_with_hedges_that_would_spoil_a_log() -> None:
    assert messages.decode_hello(hello_payload(hedge=["a\nb", "\ud800"])).hedge == ("a?b", "?")
    assert messages.decode_hello(hello_payload(hedge=["x" * 64] * 16)).hedge == ("x" * 64,) * 16


@pytest.mark.parametrize("agent", [None, 5, ["x"], {"a": 1}])
def test_hello_with_an_odd_agent(agent: object) -> None:
    assert messages.decode_hello(hello_payload(agent=agent)).agent == ""


def test_hello_with_an_agent_that_would_spoil_a_log() -> None:
    assert messages.decode_hello(hello_payload(agent="a\nb\ud800\x1b[31m")).agent == "a?b??[31m"
    assert messages.decode_hello(hello_payload(agent="x" * 3000)).agent == "x" * MAX_TEXT


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in MALFORMED.items() for value in values])
def test_malformed_hello(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"^HELLO w"):
        messages.decode_hello(hello_payload(**{key: value}))


@pytest.mark.parametrize("missing", ["version", "session", "initial_credit"])
def test_hello_without(missing: str) -> None:
    value = json.loads(hello_payload())
    del value[missing]
    with pytest.raises(ValueError, match=r"^HELLO without"):
        messages.decode_hello(json.dumps(value).encode())


def test_huge_hello() -> None:
    exact = hello_payload(agent="")
    exact = hello_payload(agent="x" * (MAX_HELLO - len(exact)))
    assert len(exact) == MAX_HELLO
    messages.decode_hello(exact)
    with pytest.raises(ValueError, match=rf"^HELLO of {MAX_HELLO + 1} bytes$"):
        messages.decode_hello(exact + b" ")


def test_hello_with_a_number_of_thousands_of_digits() -> None:
    huge = hello_payload().replace(b"65536", b"9" * 3900)
    assert len(huge) <= MAX_HELLO
    with pytest.raises(ValueError, match="initial credit"):
        messages.decode_hello(huge)


# NEW_CONN, READY, ERROR


@given(st.integers(0, 2**32 - 1), PRINTABLE)
def test_visitor_there_and_back(tunnel: int, visitor: str) -> None:
    assert messages.decode_visitor(messages.encode_visitor(tunnel, visitor)) == (tunnel, visitor)


@pytest.mark.parametrize("tunnel", [None, True, "0", 0.0, [0]])
def test_visitor_of_no_tunnel(tunnel: object) -> None:
    with pytest.raises(ValueError, match=r"^NEW_CONN without a tunnel number$"):
        messages.decode_visitor(json.dumps({"tunnel": tunnel}).encode())


def test_visitor_is_cleaned() -> None:
    assert messages.decode_visitor(b'{"tunnel":3,"visitor":"a\\nb"}') == (3, "a?b")
    assert messages.decode_visitor(b'{"tunnel":3,"visitor":5}') == (3, "")


@given(PRINTABLE.filter(bool))
def test_ready_there_and_back(address: str) -> None:
    assert messages.decode_ready(messages.encode_ready(address)) == address


@pytest.mark.parametrize("address", [None, "", 5, ["x"]])
def test_ready_without_an_address(address: object) -> None:
    with pytest.raises(ValueError, match=r"^READY without an address$"):
        messages.decode_ready(json.dumps({"address": address}).encode())


@given(st.sampled_from(["link", "tunnel", "stream"]), st.sampled_from(Code), PRINTABLE)
def test_error_there_and_back(scope: str, code: Code, message: str) -> None:
    error = WireError(scope, code, message)
    assert messages.decode_error(messages.encode_error(error)) == error


@pytest.mark.parametrize("scope", [None, "", "Link", "connection", 5, ["link"]])
def test_error_without_a_scope(scope: object) -> None:
    with pytest.raises(ValueError, match=r"^ERROR without a known scope$"):
        messages.decode_error(json.dumps({"scope": scope}).encode())


def test_error_is_cleaned() -> None:
    payload = b'{"scope":"link","code":"a\\nb","message":"\\u001b[2J"}'
    assert messages.decode_error(payload) == WireError("link", "a?b", "?[2J")
    assert messages.decode_error(b'{"scope":"link","code":7}') == WireError("link", "unknown", "")


# TICKETS, ATTACH


@given(st.integers(0, 2**62 - 1), st.integers(1, messages.MAX_TICKETS), st.floats(0.001, messages.MAX_EXPIRES))
def test_tickets_there_and_back(first: int, count: int, expires: float) -> None:
    payload = messages.encode_tickets(first, count, expires)
    assert messages.decode_tickets(payload) == (first, count, expires)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *(({"first": bad}, "index") for bad in (None, -1, True, 1.0, "1", [0], 2**62)),
        *(({"count": bad}, "number of tickets") for bad in (None, 0, -1, True, 1.0, "1", messages.MAX_TICKETS + 1)),
        *(({"expires": bad}, "lifetime") for bad in (None, 0, -1, True, "30", 3600.5, float("nan"), float("inf"))),
    ],
)
def test_tickets_out_of_range(change: dict[str, Any], reason: str) -> None:
    payload = json.dumps({"first": 0, "count": 1, "expires": 30, **change}).encode()
    with pytest.raises(ValueError, match=reason):
        messages.decode_tickets(payload)


def test_huge_tickets() -> None:
    payload = messages.encode_tickets(0, 1, 30).ljust(messages.MAX_TICKETS_PAYLOAD)
    assert messages.decode_tickets(payload) == (0, 1, 30.0)
    with pytest.raises(ValueError, match="more than 4096 bytes"):
        messages.decode_tickets(payload + b" ")


@pytest.mark.parametrize("client_random", [b"", bytes(range(32))])
def test_attach_there_and_back(client_random: bytes) -> None:
    id = bytes(range(16))
    assert messages.decode_attach(messages.encode_attach(id, client_random)) == (id, client_random)


@pytest.mark.parametrize("length", [0, 15, 17, 47, 49, 64])
def test_attach_of_another_length(length: int) -> None:
    with pytest.raises(ValueError, match=rf"^{length} bytes where 16 or 48 belong$"):
        messages.decode_attach(bytes(length))


# STATE and NOTICE


@given(PRINTABLE)
def test_state_there_and_back(why: str) -> None:
    assert messages.decode_state(messages.encode_state(is_ready=False, why=why)) == (False, why)
    assert messages.decode_state(messages.encode_state(is_ready=True, why=why)) == (True, "")


@pytest.mark.parametrize("ready", [None, "", 0, 1, "true", [True]])
def test_state_that_says_nothing(ready: object) -> None:
    with pytest.raises(ValueError, match=r"^STATE does not say whether the service is ready$"):
        messages.decode_state(json.dumps({"ready": ready}).encode())


def test_state_without_a_reason() -> None:
    assert messages.decode_state(b'{"ready":false}') == (False, "")
    assert messages.decode_state(b'{"ready":false,"why":["x"]}') == (False, "")
    assert messages.decode_state(b'{"ready":false,"why":"a\\nb"}') == (False, "a?b")


@given(PRINTABLE.filter(bool))
def test_notice_there_and_back(message: str) -> None:
    assert messages.decode_notice(messages.encode_notice(message)) == message


@pytest.mark.parametrize("message", [None, "", 5, ["x"]])
def test_notice_that_says_nothing(message: object) -> None:
    with pytest.raises(ValueError, match=r"^NOTICE without a message$"):
        messages.decode_notice(json.dumps({"message": message}).encode())


@pytest.mark.parametrize("number", ["", "+1", "+9999"])
def test_links_of_one_process(number: str) -> None:
    hello = messages.decode_hello(messages.encode_hello(Hello(SESSION + number, 65536)))
    assert hello.session == SESSION + number
    assert hello.process == SESSION
