"""URLs, addresses, services and forwards of the WebRTC tunnel, as operators write them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import ConfigError
from rtunnel.options.settings.rtc_coercions import (
    host_id,
    ice_interface,
    is_loopback,
    list_of,
    origin,
    show_signal_urls,
    signal_url,
    signal_urls,
    stun_server,
    turn_server,
)
from rtunnel.options.settings.rtc_services import forwards, services
from rtunnel.rtc.settings import TurnServer

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


@pytest.mark.parametrize(
    ("text", "secure", "host", "port", "path"),
    [
        ("ws://localhost:8080", False, "localhost", 8080, "/"),
        ("ws://localhost", False, "localhost", 80, "/"),
        ("wss://signal.example.org", True, "signal.example.org", 443, "/"),
        ("WSS://Signal.Example.org:1/", True, "signal.example.org", 1, "/"),
        ("ws://192.0.2.1:8080/a/b", False, "192.0.2.1", 8080, "/a/b"),
        ("ws://[::1]:8080/?room=1", False, "::1", 8080, "/?room=1"),
        ("ws://host_name:1?x", False, "host_name", 1, "/?x"),
    ],
)
def test_signal_url(text: str, secure: bool, host: str, port: int, path: str) -> None:
    url = signal_url(f" {text} ")
    assert (url.secure, url.host, url.port, url.path, str(url)) == (secure, host, port, path, text)


def test_several_signal_urls() -> None:
    several = signal_urls(["ws://a:1/x,y", " wss://b/p , ws://a:1/x,y", "wss://c"])
    assert [str(url) for url in several.all] == ["ws://a:1/x,y", "wss://b/p", "wss://c"]
    assert several.all[1] == signal_url("wss://b/p")
    assert signal_urls(show_signal_urls(several)) == several
    assert signal_urls("ws://a") == signal_url("ws://a")
    for wrong in ("", [], ["ws://a", "http://b"], "ws://a,b"):
        with pytest.raises(ConfigError):
            signal_urls(wrong)


def test_an_international_signal_url() -> None:
    url = signal_url("wss://Bücher.example:8443/a")
    assert (url.host, url.port, url.path, str(url)) == (
        "xn--bcher-kva.example",
        8443,
        "/a",
        "wss://xn--bcher-kva.example:8443/a",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("localhost:8080", "'localhost:8080' has no scheme; write ws://localhost:8080 or wss://localhost:8080"),
        ("http://h:1", "'http://h:1' is a web URL; write ws://h:1"),
        ("https://h/p", "'https://h/p' is a web URL; write wss://h/p"),
        ("tcp://h:1", "'tcp' in 'tcp://h:1' is neither ws nor wss; write ws://host:8080"),
        ("ws://", "'ws://' has no host"),
        ("ws://:8080", "'ws://:8080' has no host"),
        ("ws://h:x", "'ws://h:x' is not a URL"),
        ("ws://h:70000", "'ws://h:70000' is not a URL"),
        ("ws://h:0", "port 0 in 'ws://h:0' is out of range"),
        ("ws://[::1", "'ws://[::1' is not a URL"),
        ("ws://-h-:1", "'-h-' in 'ws://-h-:1' is not a host name"),
        ("ws://1.2.3:1", "'1.2.3' is not an IPv4 address"),
        ("ws://me:geheim@h:1", "a user name in the URL of h has no effect; give a token with --token"),
        ("ws://h:1/#x", "'#x' in 'ws://h:1/#x' has no effect; leave it out"),
        ("ws://h/a b", "'ws://h/a b' is not a URL: it has characters that must be escaped"),
        ("ws://h/ä", "'ws://h/ä' is not a URL: it has characters that must be escaped"),
        ("", "is empty"),
    ],
)
def test_signal_url_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        signal_url(text)
    assert str(caught.value).startswith(message)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stun:h", ("h", 3478)),
        ("stun:stun.l.google.com:19302", ("stun.l.google.com", 19302)),
        ("STUN:192.0.2.1:1", ("192.0.2.1", 1)),
        ("stun:[2001:db8::1]", ("2001:db8::1", 3478)),
        ("stun:[2001:db8::1]:1?transport=udp", ("2001:db8::1", 1)),
        ("", None),
        (" ", None),
    ],
)
def test_stun_server(text: str, expected: object) -> None:
    assert stun_server(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h:3478", "'h:3478' does not begin with stun:; write stun:host:3478"),
        ("turn:h", "'turn:h' does not begin with stun:"),
        ("stun://h:1", "'stun://h:1' has slashes, which do not belong there; write stun:h:1"),
        ("stuns:h", "'stuns:h': STUN over TLS is not supported; write stun:h"),
        ("stun:", "'stun:' has no host; write stun:host:3478"),
        ("stun:1234", "'1234' is not an IPv4 address"),
        ("stun:h:x", "'x' in 'h:x' is not a port number; write stun:host:3478"),
        ("stun:h?transport=tcp", "'stun:h?transport=tcp': STUN works only over UDP; write stun:h"),
        ("stun:::1", "'::1' is an IPv6 address without brackets; write [::1]:3478"),
    ],
)
def test_stun_server_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        stun_server(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("turn:h", TurnServer("h", 3478, "udp", False)),
        ("turn:h:1?transport=udp", TurnServer("h", 1, "udp", False)),
        ("turn:h?transport=TCP", TurnServer("h", 3478, "tcp", False)),
        ("turns:h", TurnServer("h", 5349, "tcp", True)),
        ("turns:[::1]:1?transport=tcp", TurnServer("::1", 1, "tcp", True)),
    ],
)
def test_turn_server(text: str, expected: TurnServer) -> None:
    assert turn_server(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h", "'h' does not begin with turn: or turns:; write turn:host:3478?transport=udp"),
        ("turn:h?transport=sctp", "'?transport=sctp' in 'turn:h?transport=sctp' is neither ?transport=udp nor"),
        ("turn:h?", "'?' in 'turn:h?' is neither"),
        ("turns:h?transport=udp", "'turns:h?transport=udp': TLS needs TCP; write turns:h?transport=tcp"),
        ("turn:user@h", "'user@h' in 'user@h:3478' is not a host name"),
    ],
)
def test_turn_server_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        turn_server(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eth0", "eth0"),
        ("br-lan.7", "br-lan.7"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("192.168.1.7/16", "192.168.0.0/16"),
        ("fd00::/8", "fd00::/8"),
    ],
)
def test_ice_interface(text: str, expected: str) -> None:
    assert ice_interface(text) == expected


@pytest.mark.parametrize("text", ["1.2.3", "10.0.0.0/33", "fe80::1::2", "a b", "interface-of-16ch", "eth0/24"])
def test_ice_interface_errors(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^'{text}' is not "):
        ice_interface(text)


@pytest.mark.parametrize("text", ["*", "https://example.com", "http://localhost:*", "https://*.example.com:8443"])
def test_origin(text: str) -> None:
    assert origin(text) == text


@pytest.mark.parametrize("text", ["example.com", "https://", "://x", "https://h/x", "https://h?x", "https://a b"])
def test_origin_errors(text: str) -> None:
    with pytest.raises(ConfigError):
        origin(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ()),
        ([], ()),
        ([""], ()),
        ("a", ("a",)),
        ("a, b,,a", ("a", "b")),
        (["a,b", "c"], ("a", "b", "c")),
        ([1, "b"], ("1", "b")),
    ],
)
def test_list_of(value: object, expected: tuple[str, ...]) -> None:
    assert list_of(str)(value) == expected


@pytest.mark.parametrize("value", [{"a": 1}, True, [["a"]], [None]])
def test_list_of_errors(value: object) -> None:
    with pytest.raises(ConfigError, match="is not text; put it in quotes"):
        list_of(str)(value)


@given(st.text())
def test_nothing_but_a_config_error(text: str) -> None:
    for coerce in (signal_url, stun_server, turn_server, ice_interface, origin, host_id, services, forwards):
        call: Any = coerce
        with suppress(ConfigError):
            call(text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("LOCALHOST.", True), ("127.9.9.9", True), ("::1", True), ("192.0.2.1", False), ("h", False)],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
