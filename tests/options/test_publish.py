"""``--publish KIND:PORT=LOCAL`` and the same in a file: every form, and one line with the remedy for every mistake."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st
from twisted.python import usage

from rtunnel.addresses import DialAddress
from rtunnel.errors import ConfigError
from rtunnel.options.settings.tunnels import publish, tunnels
from rtunnel.reverse.settings import TunnelSettings
from tests.options.conftest import Write
from tests.options.tunnels import parse

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


def tcp(port: int, local: str, name: str = "") -> TunnelSettings:
    return TunnelSettings(port, DialAddress.parse(local), name)


def udp(port: int, local: str, name: str = "") -> TunnelSettings:
    return TunnelSettings(port, DialAddress.parse_udp(local), name, "udp")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp:8080=127.0.0.1:80", [tcp(8080, "127.0.0.1:80")]),
        ("tcp:8080=80", [tcp(8080, "127.0.0.1:80")]),
        ("tcp:8080=:80", [tcp(8080, "127.0.0.1:80")]),
        (" tcp:8080=nas.lan:80 ", [tcp(8080, "nas.lan:80")]),
        ("tcp:8080=[::1]:80", [tcp(8080, "[::1]:80")]),
        ("tcp:0=80", [tcp(0, "80")]),
        ("tcp:8080=unix:/run/app.sock", [tcp(8080, "unix:/run/app.sock")]),
        ("tcp:8080=unix:/run/my app", [tcp(8080, "unix:/run/my app")]),
        ("tcp:8080=unix:/run/a:timeout=5", [tcp(8080, "unix:/run/a:timeout=5")]),
        ("tcp:8080=tcp:host:80:timeout=5", [tcp(8080, "tcp:host:80:timeout=5")]),
        ("tcp:8080=unix:/" + "x" * 106, [tcp(8080, "unix:/" + "x" * 106)]),
        ("tcp:6000-6002=127.0.0.1:7000-7002", [tcp(6000 + n, f"127.0.0.1:{7000 + n}") for n in range(3)]),
        ("tcp:6000-6001=[::1]:6000-6001", [tcp(6000, "[::1]:6000"), tcp(6001, "[::1]:6001")]),
        ("tcp:6000-6001=6000-6001", [tcp(6000, ":6000"), tcp(6001, ":6001")]),
        ("tcp:6000-6001=tcp:host:80-81", [tcp(6000, "host:80"), tcp(6001, "host:81")]),
        ("tcp:80-80=81-81", [tcp(80, "81")]),
        ("udp:53=127.0.0.1:53", [udp(53, "127.0.0.1:53")]),
        ("udp:53=53", [udp(53, "127.0.0.1:53")]),
        ("udp:53=:53", [udp(53, "127.0.0.1:53")]),
        ("udp:53=[::1]:5353", [udp(53, "[::1]:5353")]),
        ("udp:53=router.lan:53", [udp(53, "router.lan:53")]),
        ("udp:27015-27016=10.0.0.5:27017-27018", [udp(27015, "10.0.0.5:27017"), udp(27016, "10.0.0.5:27018")]),
    ],
)
def test_forms(text: str, expected: list[TunnelSettings]) -> None:
    assert parse("--publish", text) == tuple(expected)
    assert publish([text]) == tunnels([text]) == publish(text) == tuple(expected)


def test_the_address_of_a_udp_service() -> None:
    address = DialAddress.parse_udp(":53")
    assert (address.text, address.host, address.port) == (":53", "127.0.0.1", 53)
    assert (str(address), address.in_full) == (":53", "127.0.0.1:53")
    assert address != DialAddress.parse(":53")


def test_a_range_of_the_most_ports() -> None:
    found = publish("udp:1-1000=10.0.0.5:64536-65535")
    assert [(each.remote_port, each.local.port) for each in found] == [(n, 64535 + n) for n in range(1, 1001)]


FORMS = "write tcp:8080=127.0.0.1:80, udp:53=127.0.0.1:53 or https:app.example.org=127.0.0.1:8443"
KINDS = "kinds are tcp, udp, http, https"
UDP_FORMS = "write :53, host:53, 1.2.3.4:53 or [::1]:53"
AT_MOST = "all tunnels of a client together have at most 1,000"
NO_PORT = "is not a port, nor a range such as 6000-6010"
MISTAKES = [
    # Parts that are missing.
    ("", f"'' is not KIND:PORT=LOCAL; {FORMS}"),
    ("web", f"'web' is not KIND:PORT=LOCAL; {FORMS}"),
    ("web=127.0.0.1:80", f"'web=127.0.0.1:80' is not KIND:PORT=LOCAL; {FORMS}"),
    ("=80", f"'=80' is not KIND:PORT=LOCAL; {FORMS}"),
    ("8080", "'8080' has no kind; write tcp:8080=127.0.0.1:8080"),
    ("8080=80", "'8080=80' has no kind; write tcp:8080=80"),
    (":8080=80", "':8080=80' has no kind; write tcp:8080=80"),
    ("8080:127.0.0.1:80", "'8080:127.0.0.1:80' has no kind; write tcp:8080=127.0.0.1:80"),
    ("8080:unix:/x:timeout=5", "'8080:unix:/x:timeout=5' has no kind; write tcp:8080=unix:/x:timeout=5"),
    ("tcp", "'tcp' has no public port; write tcp:8080=127.0.0.1:8080"),
    ("tcp=80", "'tcp=80' has no public port; write tcp:8080=80"),
    ("udp:=53", "'udp:=53' has no public port; write udp:53=53"),
    ("tcp:8080", "'tcp:8080' does not say which service; write tcp:8080=127.0.0.1:8080"),
    ("tcp:8080=", "'tcp:8080=' does not say which service; write tcp:8080=127.0.0.1:8080"),
    ("tcp:0=", "'tcp:0=' does not say which service; write tcp:0=127.0.0.1:80"),
    ("udp:1-2=", "'udp:1-2=' does not say which service; write udp:1-2=127.0.0.1:1-2"),
    # Spelling.
    ("udp:53:127.0.0.1:53", "'udp:53:127.0.0.1:53' has a colon where '=' belongs; write udp:53=127.0.0.1:53"),
    ("TCP:1-2::1-2", "'TCP:1-2::1-2' has a colon where '=' belongs; write tcp:1-2=:1-2"),
    ("tcp:80:unix:/x:timeout=5", "has a colon where '=' belongs; write tcp:80=unix:/x:timeout=5"),
    ("UDP:53=53", "'UDP' in 'UDP:53=53' is not in lower case; write udp:53=53"),
    ("ftp:8080=80", f"'ftp' in 'ftp:8080=80' is not a kind of tunnel: {KINDS}; {FORMS}"),
    ("1.2.3.4:8080=80", f"'1.2.3.4' in '1.2.3.4:8080=80' is not a kind of tunnel: {KINDS}"),
    ("tcp: 8080 = :80", "'tcp: 8080 = :80' has spaces; write tcp:8080=:80"),
    ("tcp:8080= unix:/my app", "'tcp:8080= unix:/my app' has spaces; write tcp:8080=unix:/my app"),
    ("tcp:8080=127.0.0.1: 80", "'tcp:8080=127.0.0.1: 80' has spaces; write tcp:8080=127.0.0.1:80"),
    ("udp:53=127.0.0.1 :53", "'udp:53=127.0.0.1 :53' has spaces; write udp:53=127.0.0.1:53"),
    ("tcp:8\n=1", "has spaces; write tcp:8=1"),
    ("tcp:1=1,udp:2=2", "'tcp:1=1,udp:2=2' is several in one; give each by itself, tcp:1=1 and udp:2=2"),
    # Public ports.
    ("tcp:http=80", f"'http' in 'tcp:http=80' {NO_PORT}; write tcp:8080=80"),
    ("udp:dns=53", f"'dns' in 'udp:dns=53' {NO_PORT}; write udp:53=53"),
    ("tcp:0.0.0.0:80=80", f"'0.0.0.0:80' in 'tcp:0.0.0.0:80=80' {NO_PORT}; write tcp:8080=80"),
    ("tcp:-80=80", f"'-80' in 'tcp:-80=80' {NO_PORT}"),
    ("tcp:80-=80", f"'80-' in 'tcp:80-=80' {NO_PORT}"),
    ("tcp:1,2=1-2", f"'1,2' in 'tcp:1,2=1-2' {NO_PORT}; write tcp:8080=127.0.0.1:8080"),
    ("tcp:\uff18=80", NO_PORT),
    ("tcp:70000=80", "port 70000 in 'tcp:70000=80' is out of range; a port is 1 to 65535"),
    ("tcp:1-70000=1-70000", "port 70000 in 'tcp:1-70000=1-70000' is out of range"),
    ("udp:0=53", "'udp:0=53' asks for port 0, and UDP has no shared port; write a port from 1, such as udp:53=53"),
    ("tcp:0-1=1-2", "'tcp:0-1=1-2' has port 0, the server's shared port, in a range; write a range from 1 on"),
    ("tcp:2-1=1-2", "'2-1' in 'tcp:2-1=1-2' ends before it begins; write 1-2"),
    ("tcp:1-1001=1-1001", f"'1-1001' in 'tcp:1-1001=1-1001' is 1,001 ports; {AT_MOST}: write a shorter range"),
    # Local services.
    ("tcp:8080=host", "'host' has no port; write host:80"),
    ("tcp:8080=::1:80", "'::1:80' is an IPv6 address without brackets; write [::1]:80"),
    ("tcp:8080=70000", "port 70000 is out of range; a port is 1 to 65535"),
    ("tcp:8080=:0", "port 0 is out of range; a port is 1 to 65535"),
    ("tcp:8080=/run/app.sock", "'/run/app.sock' is a path; write unix:/run/app.sock"),
    ("tcp:8080=http://127.0.0.1:80/", "is a URL; write only its host and port, 127.0.0.1:80"),
    ("tcp:8080=udp:127.0.0.1:53", "'udp' in 'udp:127.0.0.1:53' is not a kind of endpoint; write :80"),
    ("udp:53=:0", "port 0 is out of range; a port is 1 to 65535"),
    ("udp:53=host", "'host' has no port; write host:53"),
    ("udp:53=::1", "'::1' is an IPv6 address without brackets; write [::1]:53"),
    ("udp:53=a:b", f"'b' in 'a:b' is not a port number; {UDP_FORMS}"),
    ("udp:53=unix:/x", f"'unix:/x' is a UNIX socket, and UDP wants host and port; {UDP_FORMS}"),
    ("udp:53=/x", f"'/x' is a UNIX socket, and UDP wants host and port; {UDP_FORMS}"),
    ("udp:53=ssl:host:53", f"'ssl:host:53' is a Twisted endpoint, and UDP wants host and port; {UDP_FORMS}"),
    ("udp:53=udp:host:53", "'udp:host:53' has a kind where host and port belong; write host:53"),
    ("udp:53=tcp:53", "'tcp:53' has a kind where host and port belong; write 53"),
    # Ranges of local services.
    ("tcp:80=h:80-81", "'tcp:80=h:80-81' has a range of local ports behind one public port; write tcp:80-81=h:80-81"),
    ("udp:65535=80-81", "has a range of local ports behind one public port; write udp:80-81=80-81"),
    ("tcp:0=h:80-81", "has a range of local ports behind one public port; write tcp:80-81=h:80-81"),
    ("tcp:80=81-80", "'81-80' in 'tcp:80=81-80' ends before it begins; write 80-81"),
    ("tcp:1-3=h:7", "'tcp:1-3=h:7' has 3 public ports and 1 local; write tcp:1-3=h:7-9"),
    ("tcp:1-3=[::1]:7-8", "'tcp:1-3=[::1]:7-8' has 3 public ports and 2 local; write tcp:1-3=[::1]:7-9"),
    ("tcp:1-3=65534", "'tcp:1-3=65534' has 3 public ports and 1 local; write tcp:1-3=1-3"),
    ("udp:1-3=h", "'udp:1-3=h' has a range of public ports, and no range of local ones; write udp:1-3=127.0.0.1:1-3"),
    ("tcp:1-2=unix:/x", "has a range of public ports, and no range of local ones; write tcp:1-2=127.0.0.1:1-2"),
    (
        "tcp:1-2=unix:/x:1-2",
        "'unix:/x:1-2' in 'tcp:1-2=unix:/x:1-2' is not a range of ports; write tcp:1-2=127.0.0.1:1-2",
    ),
    ("tcp:1-2=2-1", "'2-1' in 'tcp:1-2=2-1' ends before it begins; write 1-2"),
    ("tcp:1-2=0-1", "port 0 is out of range; a port is 1 to 65535"),
    ("tcp:1-2=65535-65536", "port 65536 in 'tcp:1-2=65535-65536' is out of range; a port is 1 to 65535"),
    ("tcp:1-2=::1:7-8", "'::1:7-8' in 'tcp:1-2=::1:7-8' has an IPv6 address without brackets; write [::1]:7-8"),
    ("tcp:1-2=h :1-2", "'tcp:1-2=h :1-2' has spaces; write tcp:1-2=h:1-2"),
    ("tcp:1-2=a_-:1-2", "in 'tcp:1-2=a_-:1-2', 'a_-' in 'a_-:1' is not a host name"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(usage.UsageError) as caught:
        parse("--publish", text)
    assert str(caught.value).startswith("flag --publish: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["x", "tcp:8080=", "tcp:", "tcp:1-2=", "udp:53=", "tcp:1:", "1:", "TCP:", "tcp:1=1,tcp:", "tcp:8080=1 "],
)
def test_long_input_is_cut(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        publish([text + "8" * 100_000])
    assert str(caught.value) == f"'{(text + '8' * 200)[:200]}...' is not KIND:PORT=LOCAL; {FORMS}"


@given(st.text("tcpudTCPUD:=-,0123456789.[] /unix\\", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (publish, tunnels):
        with suppress(ConfigError):
            assert all(each.local.port != 0 for each in read(text))


def test_a_remedy_that_is_whole_works() -> None:
    tried = 0
    for text, _ in MISTAKES:
        with pytest.raises(ConfigError) as caught:
            publish([text])
        remedy = str(caught.value).rpartition("; write ")[2]
        if remedy.startswith(("tcp:", "udp:")):
            tried += 1
            assert all(publish([each]) for each in re.split(", | or ", remedy)), text
    assert tried > 40


# The same port or name twice, and too many.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--publish=tcp:1=1", "--publish=tcp:1=2"],
            "publish: two tunnels want remote port 1; each needs a port of its",
        ),
        (["--publish=udp:1=1", "--publish=udp:1-2=1-2"], "publish: two tunnels want remote port 1 for UDP; each needs"),
        (["--publish=tcp:1=1", "--tunnel=1:1"], "publish: two tunnels want remote port 1;"),
        (["--publish=tcp:0=1", "--local=1"], "publish: two tunnels want the server's shared port (0);"),
        (["--tunnel=0:1", "--local=1"], "tunnel: two tunnels want the server's shared port (0);"),
        (
            ["--publish=tcp:1-1000=1-1000", "--publish=udp:1=1"],
            f"publish: in 'udp:1=1', there are more than 1,000 ports; {AT_MOST}: publish fewer, or start another",
        ),
        (["--publish=tcp:1-1000=1-1000", "--local=1"], "publish: there are more than 1,000 ports;"),
        (["--publish=tcp:1-999=1-999", "--tunnel=1000:1", "--local=1"], "publish: there are more than 1,000 ports;"),
    ],
)
def test_twice_and_too_many(arguments: list[str], message: str) -> None:
    with pytest.raises(usage.UsageError) as caught:
        parse(*arguments)
    assert str(caught.value).startswith(f"flag --{message}")


def test_the_same_number_for_tcp_and_udp() -> None:
    assert parse("--publish=tcp:53=53", "--publish=udp:53=53") == (tcp(53, "53"), udp(53, "53"))


# Files


def test_a_file(config: Write) -> None:
    path = config(
        """
        tunnels:
          - 8080:80
          - tcp:8081=[::1]:81
          - publish: udp:27015-27016=10.0.0.5:27015-27016
            name: game
          - {name: dns, publish: udp:53=53}
        publish:
          - tcp:8082=82
        """
    )
    assert parse("--config", path) == (
        tcp(8080, "80"),
        tcp(8081, "[::1]:81"),
        tcp(8082, "82"),
        udp(27015, "10.0.0.5:27015", "game-27015"),
        udp(27016, "10.0.0.5:27016", "game-27016"),
        udp(53, "53", "dns"),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tunnels: [tcp:8080]", "key 'tunnels': 'tcp:8080' does not say which service; write tcp:8080=127.0.0.1:8080"),
        ("tunnels: [8080=80]", "key 'tunnels': '8080=80' has no kind; write tcp:8080=80"),
        ("tunnels: ['ftp:80=80']", "key 'tunnels': 'ftp' in 'ftp:80=80' is not a kind of tunnel"),
        ("tunnels: [{publish: tcp:80}]", "key 'tunnels': entry 1: key 'publish': 'tcp:80' does not say which service"),
        ("tunnels: [{publish: [x]}]", "key 'tunnels': entry 1: key 'publish': [\"x\"] is not text"),
        (
            "tunnels: [{publish: tcp:1=1, local: 1}]",
            "key 'tunnels': entry 1: key 'local': is for an entry without 'publish', which has port and service;",
        ),
        ("tunnels: [{publish: tcp:1=1, remote-port: 1}]", "key 'tunnels': entry 1: key 'remote_port': is for an entry"),
        ("tunnels: [{publsh: tcp:1=1}]", "key 'tunnels': entry 1: unknown key 'publsh'; did you mean 'publish'?"),
        ("publish: {a: b}", "key 'publish': {\"a\": \"b\"} is not a list; write '- tcp:8080=127.0.0.1:80' in it"),
        ("publish: [8080:80]", "key 'publish': '8080:80' has no kind; write tcp:8080=80"),
        (
            "tunnels: [{name: a-1, publish: udp:5=5}, {name: a, publish: tcp:1-2=1-2}]",
            "key 'tunnels': two tunnels are named 'a-1'; give each a name of its own",
        ),
        ("tunnels: [tcp:1=1]\npublish: [tcp:1=1]", "key 'publish': two tunnels want remote port 1"),
    ],
)
def test_mistakes_in_a_file(config: Write, content: str, message: str) -> None:
    path = config(content)
    with pytest.raises(usage.UsageError) as caught:
        parse("--config", path)
    assert str(caught.value).startswith(f"{path}: line {content.count(chr(10)) + 1}: {message}")


def test_udp_comes_last_as_a_reference_server_serves_only_the_first_tunnel() -> None:
    found = parse("--publish=udp:53=53", "--publish=tcp:80=80", "--publish=udp:54=54", "--publish=tcp:81=81")
    assert found == (tcp(80, "80"), tcp(81, "81"), udp(53, "53"), udp(54, "54"))
