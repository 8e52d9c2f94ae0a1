"""The reverse tunnel's two plugins: one line for each mistake."""

from __future__ import annotations

import pytest
from twisted.python import usage

from rtunnel.errors import ConfigError
from rtunnel.options.settings.tunnels import tunnels
from tests.options.conftest import Write
from tests.options.reverse_parts import CLIENT_MINIMUM, parse_client, parse_server

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tls: {enabled: maybe}", "key 'tls.enabled': 'maybe' is neither true nor false"),
        ("tls: {certt: x}", "unknown key 'tls.certt'; did you mean 'tls.cert'?"),
        ("tls: {server_name: x}", "unknown key 'tls.server_name'"),
        ("tls: [x]", "key 'tls.enabled': [\"x\"] is neither true nor false"),
        ("server: 1.2.3.4:7000", "unknown key 'server'"),
        ("drain: soon", "key 'drain': 'soon' is not a time"),
        ("control_listen: [1]", "key 'control_listen': [1] is not text; put it in quotes"),
        ("control_listen: 1.2.3.4", "key 'control_listen': '1.2.3.4' has no port; write 1.2.3.4:7000"),
        ("control_listen: ''", "key 'control_listen': is empty"),
        ("route: yes", "key 'route': true is not one of round-robin, least-connections"),
    ],
)
def test_server_file_errors(config: Write, content: str, message: str) -> None:
    path = config(content)
    with pytest.raises(usage.UsageError) as caught:
        parse_server("--config", path)
    assert str(caught.value).startswith(f"{path}: line 1: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--control-lsten=:1"], "option --control-lsten not recognized; did you mean '--control-listen'?"),
        (["--zzz"], "option --zzz not recognized"),
        (["-control-listen=:1"], "option -c not recognized; options begin with two dashes"),
        ([":7000"], "':7000' is not an option; options begin with two dashes"),
        (["--drain"], "option --drain requires argument"),
        (["--control-listen="], "flag --control-listen: is empty"),
        (["--public-interface=eth0"], "flag --public-interface: 'eth0' is not an IP address"),
        (["--allow-ports=9-1"], "flag --allow-ports: '9-1' ends before it begins; write 1-9"),
        (["--max-frame=1K"], "flag --max-frame: '1K' is out of range; a size here is 64K to 16M"),
        (["--config=/nonexistent"], "/nonexistent: cannot be read: No such file or directory"),
        (
            ["--dead-after=5"],
            "flag --dead-after: 5 is too low; it must be more than --keepalive-interval, which is 5",
        ),
        (
            ["--keepalive-interval=20"],
            "flag --keepalive-interval: 20 is too high; it must be less than --dead-after, which is 15",
        ),
        (
            ["--max-window=1K"],
            "flag --max-window: 1K is too low; it must be at least --initial-credit, which is 64K",
        ),
        (
            ["--initial-credit=1G"],
            "flag --initial-credit: 1G is too high; it must be at most --max-window, which is 8M",
        ),
        (["--public-listen=7000"], "flag --public-listen: 7000 is also the control port; give each its own"),
    ],
)
def test_server_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(usage.UsageError) as caught:
        parse_server(*arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--server is missing; write for example --server tunnel.example.org:7000"),
        (
            ["--server=:7000"],
            "nothing to publish: --tunnel, --publish or --local is missing; write for example --tunnel 8080:80",
        ),
        (
            ["--server=:7000", "--remote-port=80"],
            "flag --remote-port: has no effect without a local service; add --local 127.0.0.1:80",
        ),
        ([*CLIENT_MINIMUM, "--tunnel=80"], "flag --tunnel: '80' is not REMOTE_PORT:LOCAL; write 8080:127.0.0.1:80"),
        ([*CLIENT_MINIMUM, "--tunnel=:80"], "flag --tunnel: ':80' is not REMOTE_PORT:LOCAL"),
        ([*CLIENT_MINIMUM, "--tunnel=host:80"], "flag --tunnel: 'host:80' is not REMOTE_PORT:LOCAL"),
        ([*CLIENT_MINIMUM, "--tunnel=70000:80"], "flag --tunnel: in '70000:80', 70000 is out of range"),
        ([*CLIENT_MINIMUM, "--tunnel=80:host"], "flag --tunnel: in '80:host', 'host' has no port; write host:80"),
        (
            ["--server=:7000", "--tunnel=80:80", "--tunnel=80:81"],
            "flag --tunnel: two tunnels want remote port 80; each needs a port of its own",
        ),
        ([*CLIENT_MINIMUM, "--tunnel=0:80"], "flag --tunnel: two tunnels want the server's shared port (0)"),
        (
            [*CLIENT_MINIMUM, "--reconnect-min=40"],
            "flag --reconnect-min: 40 is too high; it must be at most --reconnect-max, which is 30",
        ),
        (["--serve=1.2.3.4"], "flag --server: '1.2.3.4' has no port; write 1.2.3.4:7000"),
    ],
)
def test_client_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(usage.UsageError) as caught:
        parse_client(*arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "5 is not a list; write '- {local: 127.0.0.1:80, remote_port: 8080}' in it"),
        ({"local": ":80"}, "is not a list"),
        ([5], "entry 1: is a single value and not a mapping"),
        (["1:1", {}], "entry 2: has no key 'local'; write the service's address"),
        ([{"lcal": ":80"}], "entry 1: unknown key 'lcal'; did you mean 'local'?"),
        ([{"local": "x"}], "entry 1: key 'local': 'x' has no port; write x:80"),
        ([{"local": 80, "remote_port": "x"}], "entry 1: key 'remote_port': 'x' is not a whole number"),
        ([{"local": 80, "remote_port": 1, "remote-port": 1}], "keys 'remote_port' and 'remote-port' are the same"),
        ([{"local": 80, "name": 5}], "entry 1: key 'name': 5 is not text of up to 64 characters"),
        ([{"local": 80, "name": "a\nb"}], "entry 1: key 'name'"),
    ],
)
def test_tunnel_list_errors(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tunnels(value)
    assert message in str(caught.value)


def test_two_tunnels_of_one_name(config: Write) -> None:
    path = config("server: :7000\ntunnels: [{name: a, local: 1, remote_port: 1}, {name: a, local: 1, remote_port: 2}]")
    with pytest.raises(usage.UsageError, match="key 'tunnels': two tunnels are named 'a'; give each a name of its own"):
        parse_client("--config", path)
