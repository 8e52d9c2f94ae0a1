"""Addresses, services and forwards of the WebRTC tunnel, as operators write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.python import usage

from rtunnel.addresses import DialAddress, ListenAddress, UdpAddress
from rtunnel.coercions import udp_address
from rtunnel.errors import ConfigError
from rtunnel.options.plugins import rtc_client, rtc_host
from rtunnel.options.settings.rtc_services import dial, forwards, listen, services
from rtunnel.rtc.settings import ForwardSettings, ServiceSettings

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


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
