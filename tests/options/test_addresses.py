"""Addresses as operators write them: what each form means, and what an error says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from rtunnel.addresses import BACKLOG, DialAddress, ListenAddress, PortRanges
from rtunnel.endpoint_strings import MOST_UNIX_PATH, ip_address, join_description, split_description
from rtunnel.errors import ConfigError
from rtunnel.name_endpoint import NameEndpoint
from tests.patience import PATIENCE

ROOT = Path(__file__).parent.parent.parent

PORTS = st.integers(1, 65535)
# No control characters: a path cannot have NUL, and an operator does not write the others.
ARGUMENTS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=25)
# Twisted would log a traceback at each attempt to connect.
LONG_PATHS = [
    (f"unix:/{'x' * MOST_UNIX_PATH}", f"at most {MOST_UNIX_PATH} bytes, and the one in 'unix:/xxx"),
    (f"unix:/{'é' * (MOST_UNIX_PATH // 2 + 1)}", "choose a shorter one, or make a symbolic link to its directory"),
    ("unix:/\ud800", "is not the name of a file"),
]


@pytest.mark.parametrize(
    ("text", "description"),
    [
        (":7000", "tcp:7000"),
        ("7000", "tcp:7000"),
        (" :7000 ", "tcp:7000"),
        (":0", "tcp:0"),
        ("1.2.3.4:7000", "tcp:7000:interface=1.2.3.4"),
        ("host:80", "tcp:80:interface=host"),
        ("[::1]:7000", r"tcp6:7000:interface=\:\:1"),
        ("[::]:7000", r"tcp6:7000:interface=\:\:"),
        ("tcp:7000", "tcp:7000"),
        ("tcp:7000:interface=127.0.0.1", "tcp:7000:interface=127.0.0.1"),
        ("tcp:7000:127.0.0.1:5", "tcp:7000:interface=127.0.0.1:backlog=5"),
        ("tcp:port=7000:interface=", "tcp:7000"),
        ("tcp6:7000", "tcp6:7000"),
        (r"tcp6:7000:interface=\:\:1", r"tcp6:7000:interface=\:\:1"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:/run/x.sock:mode=660", "unix:/run/x.sock:mode=660"),
        (f"unix:{'x' * MOST_UNIX_PATH}", f"unix:{'x' * MOST_UNIX_PATH}"),
        ("haproxy:tcp:8080", "haproxy:tcp:8080"),
        ("haproxy::8080", "haproxy:tcp:8080"),
        ("haproxy:[::1]:8080", r"haproxy:tcp6:8080:interface=\:\:1"),
        ("haproxy:unix:/run/x.sock", "haproxy:unix:/run/x.sock"),
    ],
)
def test_listen(text: str, description: str) -> None:
    address = ListenAddress.parse(text)
    assert address.description == description
    assert str(address) == text.strip()
    assert address == ListenAddress.parse(description)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty address; write :7000, 1.2.3.4:7000, [::1]:7000, tcp:7000"),
        ("1.2.3.4", "'1.2.3.4' has no port; write 1.2.3.4:7000"),
        ("host", "'host' has no port; write host:7000"),
        ("host:", "'host:' has no port after the colon; write host:7000"),
        ("::1", "'::1' is an IPv6 address without brackets; write [::1]:7000"),
        ("fe80::1:7000", "'fe80::1:7000' is an IPv6 address without brackets; write [fe80::1]:7000"),
        ("fe80::abcd", "'fe80::abcd' is an IPv6 address without brackets; write [fe80::abcd]:7000"),
        ("[::1]", "'[::1]' has no port; write [::1]:7000"),
        ("[::1:7000", "'[::1:7000' does not begin with an IPv6 address in brackets; write [::1]:7000"),
        ("[host]:7000", "'[host]:7000' does not begin with an IPv6 address in brackets"),
        (":70000", "port 70000 is out of range; a port is 0 to 65535"),
        ("haproxy:tcp:70000", "port 70000 is out of range; a port is 0 to 65535"),
        ("haproxy:", "an empty address; write :7000"),
        ("host:http", "'http' in 'host:http' is not a port number; write :7000"),
        ("1.2.3.400:80", "'1.2.3.400' is not an IPv4 address"),
        ("a b:80", "'a b' in 'a b:80' is not a host name"),
        ("tcp://1.2.3.4:7000/", "'tcp://1.2.3.4:7000/' is a URL; write only its host and port, 1.2.3.4:7000"),
        ("tpc:7000:interface=::1", "'tpc' in 'tpc:7000:interface=::1' is not a kind of endpoint; write :7000"),
        ("tcp:7000:1.2.3.4:interface=1.2.3.4", "gives interface twice"),
        ("tcp:7000:inteface=1", "has an unknown argument 'inteface'; did you mean 'interface'?"),
        ("tcp:7000:1.2.3.4:5:6", "has too many parts; tcp takes port, interface, backlog"),
        ("tcp:x", "'x' in 'tcp:x' is not a port number"),
        ("tcp:7000:backlog=0", "backlog=0 in 'tcp:7000:backlog=0' is not a whole number from 1"),
        ("tcp6:7000:interface=1.2.3.4", "is not an IPv6 address; write interface=\\:\\:1"),
        ("unix:", "'unix:' has no path; write unix:/path"),
        *LONG_PATHS,
        (f"haproxy:unix:/{'x' * 200}", "has 201; choose a shorter one"),
        ("unix:/x:mode=9", "mode=9 in 'unix:/x:mode=9' is not octal permissions such as 660"),
        ("systemd:index=0", "'systemd:index=0' is incomplete; write systemd:domain=INET:index=0"),
        ("systemd:domain=INET:index=0", "systemd passed no such socket; start this from its .socket unit"),
        ("ssl:443", "'ssl:443' is not an endpoint that Twisted can build"),
        ("tcp:70\\", "'tcp:70\\' ends with a lone backslash"),
    ],
)
def test_listen_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ListenAddress.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_listen_endpoints_have_a_long_backlog() -> None:
    reactor = MemoryReactorClock()
    for text in ("tcp:1:interface=127.0.0.1", "[::1]:2", "tcp:3:backlog=5", "unix:/x"):
        ListenAddress.parse(text).endpoint(reactor).listen(Factory())
    assert [(server[0], *server[2:]) for server in reactor.tcpServers] == [
        (1, BACKLOG, "127.0.0.1"),
        (2, BACKLOG, "::1"),
        (3, 5, ""),
    ]
    assert [(server[0], server[2]) for server in reactor.unixServers] == [("/x", BACKLOG)]


@pytest.mark.parametrize(
    ("text", "in_full"),
    [("80", "127.0.0.1:80"), (":80", "127.0.0.1:80"), ("nas:80", "nas:80"), ("unix:/run/x.sock", "unix:/run/x.sock")],
)
def test_dialled_address_in_full(text: str, in_full: str) -> None:
    assert DialAddress.parse(text).in_full == in_full


@pytest.mark.process
def test_listen_on_a_socket_of_systemd() -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        script = (
            "import os\n"
            "os.environ['LISTEN_PID'] = str(os.getpid())\n"
            f"os.dup2({passed.fileno()}, 3)\n"
            "from rtunnel.addresses import ListenAddress\n"
            "address = ListenAddress.parse('systemd:domain=INET:index=0')\n"
            "print(type(address.endpoint(object())).__name__)\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "control", "PYTHONPATH": str(ROOT)},
            pass_fds=(passed.fileno(),),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert (result.stdout, result.stderr) == ("AdoptedStreamServerEndpoint\n", "")


@pytest.mark.parametrize(
    ("text", "description", "host", "port", "kind"),
    [
        (":80", "tcp:127.0.0.1:80", "127.0.0.1", 80, TCP4ClientEndpoint),
        ("80", "tcp:127.0.0.1:80", "127.0.0.1", 80, TCP4ClientEndpoint),
        ("1.2.3.4:80", "tcp:1.2.3.4:80", "1.2.3.4", 80, TCP4ClientEndpoint),
        ("[::1]:80", r"tcp:\:\:1:80", "::1", 80, TCP6ClientEndpoint),
        ("host.example:80", "tcp:host.example:80", "host.example", 80, NameEndpoint),
        ("bücher.example:80", "tcp:xn--bcher-kva.example:80", "xn--bcher-kva.example", 80, NameEndpoint),
        ("my_app:80", "tcp:my_app:80", "my_app", 80, NameEndpoint),
        ("tcp:host:80", "tcp:host:80", "host", 80, NameEndpoint),
        ("tcp:host=host:port=80:timeout=4", "tcp:host:80:timeout=4", "host", 80, NameEndpoint),
        (r"tcp:\:\:1:80", r"tcp:\:\:1:80", "::1", 80, TCP6ClientEndpoint),
        ("unix:/run/x.sock", "unix:/run/x.sock", None, None, UNIXClientEndpoint),
        ("unix:path=/run/x.sock", "unix:/run/x.sock", None, None, UNIXClientEndpoint),
    ],
)
def test_dial(text: str, description: str, host: str | None, port: int | None, kind: type) -> None:
    address = DialAddress.parse(text)
    assert (address.description, address.host, address.port) == (description, host, port)
    endpoint = address.endpoint(MemoryReactorClock(), 3.0)
    assert type(endpoint) is kind
    assert address == DialAddress.parse(description)
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty address; write :80, host:80"),
        ("host", "'host' has no port; write host:80"),
        ("0", "port 0 is out of range; a port is 1 to 65535"),
        (":0", "port 0 is out of range"),
        ("http://127.0.0.1:80", "is a URL; write only its host and port, 127.0.0.1:80"),
        ("http://host/", "is a URL; write only its host and port"),
        ("tcp:80", "'tcp:80' has no host or no port; write tcp:127.0.0.1:80"),
        ("tcp:host:x", "'x' in 'tcp:host:x' is not a port number"),
        ("tcp:host:80:bindAddress=x", "'x' is not an IP address"),
        ("tcp:host:80:timeout=1.5", "timeout=1.5 in 'tcp:host:80:timeout=1.5' is not a whole number of seconds"),
        ("unix:", "has no path; write unix:/path"),
        *LONG_PATHS,
        ("systemd:domain=INET:index=0", "'systemd' in"),
        ("-x:80", "is not a host name"),
        ("tls:host", "is not an endpoint that Twisted can build"),
    ],
)
def test_dial_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DialAddress.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dial_uses_the_timeout_and_the_source_address() -> None:
    reactor = MemoryReactorClock()
    for text in ("1.2.3.4:80", "tcp:1.2.3.4:80:timeout=7:bindAddress=127.0.0.9"):
        DialAddress.parse(text).endpoint(reactor, 2.5).connect(Factory()).addErrback(lambda _: None)
    assert [(host, port, timeout, source) for host, port, _, timeout, source in reactor.tcpClients] == [
        ("1.2.3.4", 80, 2.5, None),
        ("1.2.3.4", 80, 7.0, ("127.0.0.9", 0)),
    ]
    DialAddress.parse("unix:/x:lockfile=1").endpoint(reactor, 2.5).connect(Factory())
    assert [(client[0], client[2], client[3]) for client in reactor.unixClients] == [("/x", 2.5, True)]


@given(st.ip_addresses(), PORTS)
def test_short_forms_of_any_ip_address(ip: object, port: int) -> None:
    host = f"[{ip}]" if ":" in str(ip) else str(ip)
    listen, dial = ListenAddress.parse(f"{host}:{port}"), DialAddress.parse(f"{host}:{port}")
    assert (dial.host, dial.port) == (str(ip), port)
    assert ListenAddress.parse(listen.description) == listen
    assert DialAddress.parse(dial.description) == dial


@given(ARGUMENTS)
def test_any_path(path: str) -> None:
    reactor = MemoryReactorClock()
    description = join_description(["unix", path], {})
    if not path.strip() or "://" in description:
        with pytest.raises(ConfigError, match="is a URL" if path.strip() else "has no path"):
            ListenAddress.parse(description)
        return
    ListenAddress.parse(description.rstrip())
    if path == path.strip():
        ListenAddress.parse(description).endpoint(reactor).listen(Factory())
        DialAddress.parse(description).endpoint(reactor, 1).connect(Factory())
        assert [server[0] for server in reactor.unixServers] == [path]
        assert [client[0] for client in reactor.unixClients] == [path]


@given(st.lists(ARGUMENTS, min_size=1), st.dictionaries(st.text("abcd", min_size=1), st.text()))
def test_descriptions_round_trip(positional: list[str], named: dict[str, str]) -> None:
    assert split_description(join_description(positional, named)) == (positional, named)


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse in (ListenAddress.parse, DialAddress.parse, PortRanges.parse, ip_address):
        with suppress(ConfigError):
            parse(text)


@given(st.lists(st.tuples(PORTS, PORTS).map(sorted), min_size=1))
def test_port_ranges_are_sets(ranges: list[list[int]]) -> None:
    text = ",".join(f"{low}-{high}" for low, high in ranges)
    ports = PortRanges.parse(text)
    assert PortRanges.parse(str(ports)) == ports
    edges = {edge + step for pair in ranges for edge in pair for step in (-1, 0, 1)}
    for port in edges:
        assert (port in ports) == any(low <= port <= high for low, high in ranges)
    assert all(first[1] + 1 < second[0] for first, second in zip(ports.ranges, ports.ranges[1:], strict=False))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("8000-8999,9443", "8000-8999,9443"), (" 3 , 1 - 2 ", "1-3"), ("5", "5"), ("none", "none"), ("7,7", "7")],
)
def test_port_ranges(text: str, shown: str) -> None:
    assert str(PortRanges.parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a port number; write ports and ranges such as 8000-8999,9443"),
        ("80,", "'' in '80,' is not a port number"),
        ("1-2-3", "'2-3' in '1-2-3' is not a port number"),
        ("9000-8000", "'9000-8000' ends before it begins; write 8000-9000"),
        ("0-80", "port 0 is out of range; a port is 1 to 65535"),
        ("65536", "port 65536 is out of range"),
        ("http", "'http' is not a port number"),
        ("٣", "'٣' is not a port number"),
    ],
)
def test_port_range_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PortRanges.parse(text)
    assert message in str(caught.value)


def test_what_is_no_port_is_in_no_range() -> None:
    assert "80" not in PortRanges.parse("80")
    assert 80 not in PortRanges.parse("none")


def test_ip_address() -> None:
    assert ip_address(" [::1] ") == "::1"
    with pytest.raises(ConfigError, match=r"'localhost' is not an IP address; write one such as 127.0.0.1 or ::1"):
        ip_address("localhost")
