"""URLs, addresses, services and forwards of the WebRTC tunnel, as operators write them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from twisted.python import usage

from rtunnel.addresses import DialAddress, ListenAddress, UdpAddress
from rtunnel.coercions import udp_address
from rtunnel.errors import ConfigError
from rtunnel.options.plugins import rtc_client, rtc_host
from rtunnel.options.settings.rtc_coercions import (
    host_id,
    ice_interface,
    is_loopback,
    list_of,
    origin,
    signal_url,
    stun_server,
    turn_server,
)
from rtunnel.options.settings.rtc_services import dial, forwards, listen, services
from rtunnel.rtc.settings import ForwardSettings, ServiceSettings, TurnServer

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


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "protocol", "expected"),
        [
            ("h:80", "tcp", DialAddress.parse("h:80")),
            ("tcp:h:80", "tcp", DialAddress.parse("h:80")),
            ("tcp:[::1]:80", "tcp", DialAddress.parse("[::1]:80")),
            ("unix:/x", "tcp", DialAddress.parse("unix:/x")),
            ("h:53", "udp", UdpAddress("h:53", "h", 53)),
            ("udp:h:53", "udp", UdpAddress("h:53", "h", 53)),
            ("udp:53", "tcp", UdpAddress("53", "", 53)),
            ("udp:[::1]:53", "tcp", UdpAddress("[::1]:53", "::1", 53)),
        ],
    )
    def test_dial(self, text: str, protocol: str, expected: object) -> None:
        assert dial(text, protocol) == expected

    @pytest.mark.parametrize(
        ("text", "protocol", "expected"),
        [
            (":80", "tcp", ListenAddress.parse(":80")),
            ("tcp:80:interface=127.0.0.1", "tcp", ListenAddress.parse("127.0.0.1:80")),
            ("tcp:[::1]:80", "tcp", ListenAddress.parse("[::1]:80")),
            ("udp:127.0.0.1:0", "tcp", UdpAddress("127.0.0.1:0", "127.0.0.1", 0)),
        ],
    )
    def test_listen(self, text: str, protocol: str, expected: object) -> None:
        assert listen(text, protocol) == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "an empty address; write :53"),
            ("h", "'h' has no port; write h:53"),
            (":0", "port 0 is out of range; a port is 1 to 65535"),
            ("unix:/x", "'unix:/x' is not an address for UDP"),
            ("::1:53", "'::1:53' is an IPv6 address without brackets; write [::1]:53"),
        ],
    )
    def test_udp_errors(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            udp_address(text, lowest=1)
        assert str(caught.value).startswith(message)


WEB = ServiceSettings("web", DialAddress.parse("127.0.0.1:80"))
DNS = ServiceSettings("dns", UdpAddress("127.0.0.1:53", "127.0.0.1", 53))


class TestServices:
    @pytest.mark.parametrize(
        "value",
        [
            "web=127.0.0.1:80,dns=udp:127.0.0.1:53",
            ["web=tcp:127.0.0.1:80", " dns = udp:127.0.0.1:53"],
            [{"name": "web", "remote": "127.0.0.1:80"}, {"name": "dns", "remote": "127.0.0.1:53", "protocol": "udp"}],
            [{"name": "web", "remote": 80, "protocol": "tcp"}, "dns=udp:127.0.0.1:53"],
            [{"name": "web", "remote": "127.0.0.1:80"}, {"name": "dns", "remote": "udp:127.0.0.1:53"}],
        ],
    )
    def test_all_forms(self, value: object) -> None:
        assert services(value) == (WEB, DNS)
        assert [service.protocol for service in services(value)] == ["tcp", "udp"]

    def test_an_endpoint_may_have_an_equals_sign(self) -> None:
        (service,) = services(["a=tcp:h:80:timeout=5"])
        assert service == ServiceSettings("a", DialAddress.parse("tcp:h:80:timeout=5"))

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (5, "5 is not a list; write '- {name: web, remote: 127.0.0.1:80}' in it"),
            (["127.0.0.1:80"], "'127.0.0.1:80' is not NAME=ADDRESS; write web=127.0.0.1:80 or dns=udp:127.0.0.1:53"),
            (["web="], "'web=' is not NAME=ADDRESS"),
            (["=:80"], "'=:80' is not NAME=ADDRESS"),
            (["a b=:80"], "in 'a b=:80', 'a b' is not a service name; use up to 64 letters, digits,"),
            (["web=h"], "in 'web=h', 'h' has no port; write h:80"),
            (["web=udp:h"], "in 'web=udp:h', 'h' has no port; write h:53"),
            ([5], "entry 1: is a single value and not a mapping"),
            (["a=:1", {}], "entry 2: has no key 'name'; write what clients ask for, such as name: web"),
            ([{"name": "a"}], "entry 1: has no key 'remote'; write the service's address"),
            ([{"name": "a", "remot": 1}], "entry 1: unknown key 'remot'; did you mean 'remote'?"),
            ([{"name": "a b", "remote": 1}], "entry 1: key 'name': 'a b' is not a service name"),
            ([{"name": "a", "remote": "x"}], "entry 1: key 'remote': 'x' has no port"),
            ([{"name": "a", "remote": 1, "protocol": "x"}], "entry 1: key 'protocol': 'x' is not one of tcp, udp"),
            ([{"name": "a", "remote": "tcp:h:1", "protocol": "udp"}], "entry 1: key 'remote': 'tcp:h:1' is an address"),
        ],
    )
    def test_errors(self, value: object, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            services(value)
        assert str(caught.value).startswith(message)


class TestForwards:
    @pytest.mark.parametrize(
        "value",
        [
            "127.0.0.1:80=web,udp:127.0.0.1:53=dns,:22=",
            ["tcp:80:interface=127.0.0.1=web", " udp:127.0.0.1:53 = dns", "tcp:22="],
            [
                {"local": "127.0.0.1:80", "service": "web"},
                {"local": "127.0.0.1:53", "service": "dns", "protocol": "udp"},
                {"local": 22},
            ],
            [
                {"local": "127.0.0.1:80", "service": "web"},
                {"local": "udp:127.0.0.1:53", "service": "dns"},
                {"local": 22, "service": ""},
            ],
        ],
    )
    def test_all_forms(self, value: object) -> None:
        assert forwards(value) == (
            ForwardSettings("web", ListenAddress.parse("127.0.0.1:80")),
            ForwardSettings("dns", UdpAddress("127.0.0.1:53", "127.0.0.1", 53)),
            ForwardSettings("", ListenAddress.parse(":22")),
        )
        assert [forward.protocol for forward in forwards(value)] == ["tcp", "udp", "tcp"]

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({"local": 1}, "{\"local\": 1} is not a list; write '- {local: 127.0.0.1:8080, service: web}' in it"),
            ([":80"], "':80' is not ADDRESS=NAME; write 127.0.0.1:8080=web or udp:127.0.0.1:5353=dns"),
            (["=web"], "'=web' is not ADDRESS=NAME"),
            (["h=web"], "in 'h=web', 'h' has no port; write h:7000"),
            (
                ["web=127.0.0.1:80"],
                "'web=127.0.0.1:80': the address comes first, and then the name: write 127.0.0.1:8080=web",
            ),
            ([":80=a b"], "in ':80=a b', 'a b' is not a service name"),
            ([{"service": "web"}], "entry 1: has no key 'local'; write where to listen"),
            ([{"local": 1, "name": "web"}], "entry 1: unknown key 'name'"),
            ([{"local": 1, "service": "a/b"}], "entry 1: key 'service': 'a/b' is not a service name"),
        ],
    )
    def test_errors(self, value: object, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            forwards(value)
        assert str(caught.value).startswith(message)


def names_of(*arguments: str) -> list[str]:
    options = rtc_host.Options()
    options.parseOptions(["--id=x", *arguments])
    return [service.name or "-" for service in options.settings.services]


class TestWhichCounts:
    """The address of the default service, and the list of the others."""

    @pytest.mark.parametrize(
        ("arguments", "variables", "file", "expected"),
        [
            ([], {}, "", "-"),
            (["--service=a=:1", "--service=b=:2"], {}, "", "a b"),
            (["--remote=:1", "--service=a=:1"], {}, "", "- a"),
            (["--remote=:1"], {}, "host: {services: ['a=:1']}", "-"),
            (["--service=a=:1"], {}, "host: {remote: 1}", "a"),
            ([], {}, "host: {remote: 1, services: ['a=:1']}", "- a"),
            ([], {}, "protocol: tcp\nhost: {services: ['a=:1']}", "a"),
            ([], {"WTT_HOST_REMOTE": ":1"}, "host: {services: ['a=:1']}", "-"),
            ([], {"RTUNNEL_SERVICE": "a=:1, b=:2"}, "host: {remote: 1}", "a b"),
            ([], {"RTUNNEL_SERVICE": ","}, "host: {remote: 1}", "-"),
            ([], {}, "host: {services: []}", "-"),
            (["--protocol=udp"], {}, "host: {services: []}", "-"),
        ],
    )
    def test_services(
        self,
        arguments: list[str],
        variables: dict[str, str],
        file: str,
        expected: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "x.yaml").write_text(file)
        assert names_of(*arguments, "--config", str(tmp_path / "x.yaml")) == expected.split()

    def test_two_services_of_one_name(self) -> None:
        with pytest.raises(usage.UsageError, match="flag --service: two services are named 'a'; give each a name"):
            names_of("--service=a=:1", "--service=a=:2")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--forward=:1=a", "--forward=tcp:1=b"),
            ("--local=:1", "--forward=:1=a"),
            ("--forward=udp::1=a", "--forward=udp:1=b"),
        ],
    )
    def test_two_forwards_at_one_address(self, arguments: tuple[str, ...]) -> None:
        with pytest.raises(usage.UsageError, match=r"flag --forward: two forwards listen on .*1; give each an address"):
            rtc_client.Options().parseOptions(["--id=x", *arguments])

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--forward=:0=a", "--forward=:0=b"),
            ("--forward=:1=a", "--forward=udp:1=b"),
            ("--forward=127.0.0.1:1=a", "--forward=[::1]:1=a"),
            ("--forward=udp:0=a", "--forward=udp:0=b"),
        ],
    )
    def test_what_does_not_collide(self, arguments: tuple[str, ...]) -> None:
        options = rtc_client.Options()
        options.parseOptions(["--id=x", *arguments])
        assert len(options.settings.forwards) == 2
