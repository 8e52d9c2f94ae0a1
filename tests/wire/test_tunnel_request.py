"""INIT, there and back, and whatever else a peer may send in its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.messages import MAX_TEXT
from rtunnel.wire.tunnel_request import MAX_RULES, Behalf, TunnelRequest, decode_init, encode_init

ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=MAX_TEXT)


@given(st.integers(0, 65535), ASCII)
def test_init_there_and_back(port: int, local: str) -> None:
    request = TunnelRequest(port, local)
    assert encode_init(request) == f"{port}:{local}".encode("ascii")
    assert decode_init(encode_init(request)) == request


@given(st.integers(1, 65535), ASCII)
def test_init_of_udp_there_and_back(port: int, local: str) -> None:
    request = TunnelRequest(port, local, "udp")
    assert encode_init(request) == f"udp/{port}:{local}".encode("ascii")
    assert decode_init(encode_init(request)) == request


RULES = st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.integers() | st.booleans(), max_size=3)


@given(st.integers(1, 65535), ASCII, st.sampled_from(["tcp", "udp"]), RULES)
def test_init_of_a_port_with_rules_there_and_back(
    port: int, local: str, protocol: str, rules: dict[str, object]
) -> None:
    request = TunnelRequest(port, local, protocol, rules=rules)
    assert decode_init(encode_init(request)) == request


@given(st.integers(1, 65535), ASCII, st.sampled_from(["tcp", "udp"]), RULES)
def test_init_that_only_asks_there_and_back(port: int, local: str, protocol: str, rules: dict[str, object]) -> None:
    request = TunnelRequest(port, local, protocol, rules=rules, only_check=True)
    assert decode_init(encode_init(request)) == request


def test_init_that_only_asks() -> None:
    request = TunnelRequest(0, ":80", "http", "app", rules={"deny": []}, only_check=True)
    assert encode_init(request) == b'http/app::80\n{"deny":[],"only-check":true}'
    assert decode_init(b'80:x\n{"only-check":false}') == TunnelRequest(80, "x")


@pytest.mark.parametrize("value", ["null", "1", '"true"', "[]", "{}"])
def test_init_that_asks_oddly(value: str) -> None:
    with pytest.raises(ValueError, match=r"^INIT has something else than true in 'only-check'$"):
        decode_init(f'80:x\n{{"only-check":{value}}}'.encode())


def test_init_of_a_port_with_rules() -> None:
    request = TunnelRequest(8080, ":80", rules={"group": "web", "group-key": "0123456789abcdef"})
    assert encode_init(request) == b'8080::80\n{"group":"web","group-key":"0123456789abcdef"}'
    assert "0123456789abcdef" not in repr(request), "it would be in a log one day"


def test_init_is_ascii() -> None:
    assert encode_init(TunnelRequest(80, "caf\u00e9:80")) == b"80:caf?:80"


def test_a_local_address_is_no_second_line() -> None:
    request = TunnelRequest(0, "unix:/a\n{}", "http", "app")
    assert encode_init(request) == b"http/app:unix:/a?{}"


@pytest.mark.parametrize(
    ("payload", "port", "local"),
    [
        (b"0:", 0, ""),
        (b"65535:[::1]:80", 65535, "[::1]:80"),
        (b"00080:x", 80, "x"),
        (b"80:a\rb", 80, "a?b"),
        (b"80:" + b"x" * 300, 80, "x" * MAX_TEXT),
        (b"80:udp/53:x", 80, "udp/53:x"),
    ],
)
def test_init(payload: bytes, port: int, local: str) -> None:
    assert decode_init(payload) == TunnelRequest(port, local)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b":",
        b":127.0.0.1:80",
        b"8080",
        b"http:127.0.0.1:80",
        b"-1:x",
        b"+80:x",
        b" 80:x",
        b"80 :x",
        b"8_0:x",
        b"0x50:x",
        b"65536:x",
        b"000080:x",
        b"1e3:x",
        b"9" * 60000 + b":x",
        "\u0668\u0660:x".encode(),
        "\u00b2:x".encode(),
        b"\xff80:x",
        b"tcp/80:x",
        b"udp80:x",
        b"udp:80:x",
        b"UDP/80:x",
        b" udp/80:x",
        b"/80:x",
    ],
)
def test_init_without_a_port(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"^INIT says '.*' where a port from 0 to 65535 and a colon belong$") as caught:
        decode_init(payload)
    assert len(str(caught.value)) < MAX_TEXT + 100


@pytest.mark.parametrize(
    "port", ["", "0", "00000", "65536", "000053", "-1", "+53", " 53", "53/udp", "udp/53", "9" * 60000]
)
def test_init_of_udp_without_a_port(port: str) -> None:
    with pytest.raises(
        ValueError, match=r"^INIT says 'udp/.*' where a port from 1 to 65535 and a colon belong$"
    ) as caught:
        decode_init(f"udp/{port}:127.0.0.1:53".encode())
    assert len(str(caught.value)) < MAX_TEXT + 100


HOSTS = st.from_regex(r"(\*\.)?[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{1,9}){0,3}", fullmatch=True)
PATHS = st.from_regex(r"(/[A-Za-z0-9._~-]{1,9}){0,3}", fullmatch=True)


@given(HOSTS, PATHS, RULES)
def test_init_of_a_host_name_there_and_back(host: str, path: str, rules: dict[str, object]) -> None:
    request = TunnelRequest(0, "127.0.0.1:3000", "http", host, path, rules)
    payload = encode_init(request)
    assert payload.startswith(f"http/{host}{path}:127.0.0.1:3000".encode())
    assert decode_init(payload) == request


def test_init_of_https() -> None:
    request = TunnelRequest(0, ":8443", "https", "*.dev.example.org")
    assert encode_init(request) == b"https/*.dev.example.org::8443"
    assert decode_init(b"https/*.dev.example.org::8443") == request


@pytest.mark.parametrize(
    "name", ["", "*", "app example", "APP.example", "app.example?x", "app.example/a b", "app.example/\n", "a" * 254]
)
def test_init_without_a_host_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"where a host name belongs$"):
        decode_init(f"http/{name}:x".encode())


def test_init_of_https_with_a_path() -> None:
    with pytest.raises(ValueError, match=r"where a host name belongs$"):
        decode_init(b"https/app.example.org/api:x")


@pytest.mark.parametrize(
    "rules", ["", "[]", "1", "{", '"x"', "[" * 100000, json.dumps({"a": "x" * MAX_RULES}), "null", "{}{}"]
)
def test_init_with_something_else_than_rules(rules: str) -> None:
    for what in ("http/app.example.org", "8080", "udp/53"):
        with pytest.raises(ValueError, match=r"^INIT has something else than rules in its second line$"):
            decode_init(f"{what}:x\n{rules}".encode())


BEHALF = Behalf("client 5b0c", "office", 7, "c0ffee")


def test_on_behalf_of_others() -> None:
    request = TunnelRequest(8080, "client office", rules={"deny": []}, behalf=BEHALF)
    assert decode_init(encode_init(request)) == request
    assert decode_init(b'80:x\n{"on-behalf":{"owner":"o"}}') == TunnelRequest(80, "x", behalf=Behalf("o"))


@pytest.mark.parametrize(
    "value",
    [
        *("true", "null", "[]", "{}", '{"owner":""}', '{"owner":1}', '{"owner":"o","client":null}'),
        *('{"owner":"o","number":-1}', '{"owner":"o","number":true}', '{"owner":"o","link":2}'),
        f'{{"owner":"{"o" * 301}"}}',
    ],
)
def test_a_behalf_that_is_none(value: str) -> None:
    with pytest.raises(ValueError, match=r"^INIT has something else than an owner in 'on-behalf'$"):
        decode_init(f'80:x\n{{"on-behalf":{value}}}'.encode())
