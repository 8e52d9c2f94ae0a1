"""The two plugins' options: every source of every setting, the layouts of files, the help, and one line per mistake."""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from twisted.python import usage

from rtunnel.addresses import DialAddress, ListenAddress, PortRanges, UdpAddress
from rtunnel.cluster.settings import ClusterUrl
from rtunnel.options.plugins import rtunnel_client, rtunnel_server
from rtunnel.options.plugins.common import PluginOptions
from rtunnel.options.settings.acme import ACME
from rtunnel.options.settings.declaration import Setting
from rtunnel.options.settings.reverse import CLIENT, SERVER
from rtunnel.options.settings.tls import TLS, TLS_CLIENT, TLS_SERVER
from rtunnel.proxies import Proxy
from rtunnel.reverse.settings import ClientSettings, ServerSettings, TunnelSettings
from rtunnel.wire.limits import LinkLimits
from tests.options.conftest import Write
from tests.options.reverse_parts import CLIENT_MINIMUM, parse_client, parse_server

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


def tunnel(port: int, local: str, name: str = "") -> TunnelSettings:
    return TunnelSettings(port, DialAddress.parse(local), name)


def test_server_defaults_are_those_of_the_service() -> None:
    assert parse_server() == ServerSettings(control_listen=ListenAddress.parse("tcp:7000"))


def test_client_defaults_are_those_of_the_service() -> None:
    expected = ClientSettings(DialAddress.parse("1.2.3.4:7000"), (tunnel(0, "127.0.0.1:80"),))
    assert parse_client(*CLIENT_MINIMUM) == expected


# One value for each setting that is not its default, as text, as YAML, and what the service gets.
LINK_VALUES: dict[str, tuple[str, object, object]] = {
    "max-streams": ("5", 5, 5),
    "initial-credit": ("2K", 2048, 2048),
    "max-window": ("1M", "1M", 1 << 20),
    "link-buffer": ("1G", "1G", 1 << 30),
    "memory": ("1G", "1G", 1 << 30),
    "max-frame": ("16M", "16M", 16 << 20),
    "data-plane": ("direct", "direct", "direct"),
    "pool": ("5", 5, 5),
    "keepalive-interval": ("500ms", 0.5, 0.5),
    "dead-after": ("1m", 60, 60.0),
}
LOG_VALUES: dict[str, tuple[str, object, object]] = {
    "log-format": ("json", "json", "json"),
    "log-level": ("warn", "warn", "warn"),
    "status-listen": ("127.0.0.1:7070", "127.0.0.1:7070", ListenAddress.parse("127.0.0.1:7070")),
    "status-token": ("s3cret", "s3cret", "s3cret"),
    "access-log": ("/var/log/visitors", "/var/log/visitors", Path("/var/log/visitors")),
}
SERVER_VALUES = {
    "control-listen": ("[::1]:7001", "[::1]:7001", ListenAddress.parse("[::1]:7001")),
    "udp-listen": (":7001", ":7001", UdpAddress(":7001", "", 7001)),
    "public-listen": (":8080", ":8080", ListenAddress.parse("tcp:8080")),
    "http-listen": (":80", ":80", ListenAddress.parse("tcp:80")),
    "trusted-proxies": ("::ffff:10.0.0.0/104", ["10.0.0.0/8"], (IPv4Network("10.0.0.0/8"),)),
    "https-listen": ("[::1]:443", "[::1]:443", ListenAddress.parse("[::1]:443")),
    "public-interface": ("::", "::", "::"),
    "allow-ports": ("8000-8999,9443", ["8000-8999", 9443], PortRanges.parse("8000-8999,9443")),
    "route": ("least-connections", "least-connections", "least-connections"),
    "drain": ("0", 0, 0.0),
    "max-links": ("3", 3, 3),
    "cluster-advertise": ("node1:7000", "node1:7000", "node1:7000"),
    "cluster-ports": ("holder", "holder", "holder"),
    "max-handshakes": ("7", 7, 7),
    "max-tunnels": ("4", 4, 4),
    "handshake-timeout": ("1.5", 1.5, 1.5),
    "hold": ("30s", "30s", 30.0),
    "visitor-idle": ("1h", "1h", 3600.0),
    "cluster": ("redis://pw@a/1", "redis://pw@a/1", ClusterUrl.parse("redis://pw@a/1")),
    **LINK_VALUES,
    **LOG_VALUES,
}
CLIENT_VALUES = {
    "server": ("host:7000", "host:7000", (DialAddress.parse("host:7000"),)),
    "links": ("2", 2, 2),
    "via": ("http://me:pw@proxy:3128", "http://me:pw@proxy:3128", Proxy.parse("http://me:pw@proxy:3128")),
    "local": ("unix:/x", "unix:/x", DialAddress.parse("unix:/x")),
    "remote-port": ("8080", 8080, 8080),
    "tunnel": ("9000:90", [{"local": 90, "remote_port": 9000}], (tunnel(9000, ":90"),)),
    "publish": ("udp:53=53", ["udp:53=53"], (TunnelSettings(53, DialAddress.parse_udp("53"), protocol="udp"),)),
    "reconnect-min": ("2", 2, 2.0),
    "reconnect-max": ("20", 20, 20.0),
    "connect-timeout": ("3", 3, 3.0),
    "dial-timeout": ("4", 4, 4.0),
    "check-services": ("no", False, False),
    "drain": ("0", 0, 0.0),
    **LINK_VALUES,
    **LOG_VALUES,
}
# These take files that must be there, or depend on one another: test_tls_options.py and test_acme_options.py.
#: They have tests of their own, and take files that must be there.
OF_SECURITY = {setting.name for setting in (*ACME, *TLS, *TLS_CLIENT, *TLS_SERVER)}
OF_SECURITY |= {"status-tls-cert", "status-tls-key", "status-tls-ca"}
PLUGINS = [(rtunnel_server.Options, SERVER, SERVER_VALUES), (rtunnel_client.Options, CLIENT, CLIENT_VALUES)]


def kept(settings: Any, name: str) -> Any:
    """What a service gets for a setting."""
    key = name.replace("-", "_")
    if isinstance(settings, ClientSettings) and key in ("local", "remote_port", "tunnel", "publish"):
        lists = {"tunnel": settings.tunnels[1:2], "publish": settings.tunnels[2:]}
        return lists.get(key) or getattr(settings.tunnels[0], key)
    if isinstance(settings, ClientSettings) and key == "server":
        return settings.servers
    return getattr(settings.limits, key) if hasattr(LinkLimits, key) else getattr(settings, key)


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
@pytest.mark.parametrize(("options_class", "declared", "values"), PLUGINS)
def test_every_setting_from_every_source(
    options_class: type[Any],
    declared: tuple[Setting, ...],
    values: dict[str, tuple[str, object, object]],
    source: str,
    config: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = [setting for setting in declared if setting.name not in OF_SECURITY]
    assert {setting.name for setting in settings} == set(values)
    arguments: list[str] = []
    if source == "flag":
        arguments = [f"--{setting.name}={values[setting.name][0]}" for setting in settings]
    elif source == "environment":
        for setting in settings:
            monkeypatch.setenv(setting.variable, values[setting.name][0])
    else:
        arguments = ["--config", config(json.dumps({s.key: values[s.name][1] for s in settings}), "x.json")]
    options = options_class()
    options.parseOptions(arguments)
    for name, (_, _, expected) in values.items():
        assert options[name] == expected
        if name not in LOG_VALUES:
            assert kept(options.settings, name) == expected


def test_flag_over_environment_over_file(config: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTUNNEL_CONFIG", config("drain: 1\nmax-links: 1\nmax_tunnels: 1\n"))
    monkeypatch.setenv("RTUNNEL_DRAIN", "2")
    monkeypatch.setenv("RTUNNEL_MAX_LINKS", "2")
    settings = parse_server("--drain=3")
    assert (settings.drain, settings.max_links, settings.limits.max_tunnels) == (3.0, 2, 1)


def test_settings_of_the_other_plugin_in_the_environment_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTUNNEL_SERVER", "x")
    monkeypatch.setenv("RTUNNEL_REMOTE_PORT", "x")
    parse_server()


def test_empty_as_in_the_reference() -> None:
    settings = parse_server("--public-listen=", "--public-interface=")
    assert (settings.public_listen, settings.public_interface) == (None, "")


def test_reference_server_file(config: Write) -> None:
    path = config(
        """
        control_listen: ":7000"
        public_listen: ":8080"
        tls:
          enabled: false
          cert: /etc/certs/server.crt
          key: /etc/certs/server.key
          ca: /etc/certs/ca.crt
        """
    )
    assert parse_server("--config", path) == ServerSettings(
        ListenAddress.parse(":7000"), public_listen=ListenAddress.parse(":8080")
    )


def test_reference_client_file(config: Write) -> None:
    path = config(
        """
        server: "1.2.3.4:7000"
        local: "127.0.0.1:80"
        remote_port: 8080
        tls: {enabled: false, cert: c, key: k, ca: a, server_name: ""}
        """
    )
    expected = ClientSettings(DialAddress.parse("1.2.3.4:7000"), (tunnel(8080, "127.0.0.1:80"),))
    assert parse_client("--config", path) == expected


def test_our_client_file(config: Write) -> None:
    path = config(
        """
        server: 1.2.3.4:7000
        tunnels:
          - {name: web, local: 127.0.0.1:80, remote_port: 8080}
          - name: ssh
            local: 22
            remote-port: 2222
          - 9000:unix:/run/app.sock
          - local: :81
        """
    )
    assert parse_client("--config", path).tunnels == (
        tunnel(8080, "127.0.0.1:80", "web"),
        tunnel(2222, ":22", "ssh"),
        tunnel(9000, "unix:/run/app.sock"),
        tunnel(0, ":81"),
    )


@pytest.mark.parametrize(
    ("flags", "environ", "file", "expected"),
    [
        # The pair of local and remote-port comes first, then the list.
        (["--local=:1", "--remote-port=9001", "--tunnel=9002:2", "--tunnel=9003:3"], {}, "", "9001 9002 9003"),
        (["--tunnel=9002:2"], {}, "local: 1\nremote_port: 9001\ntunnels: ['9009:9']", "9002"),
        (["--local=:1"], {}, "remote_port: 9001\ntunnels: ['9009:9']", "9001"),
        (["--remote-port=9001"], {}, "local: 1\nremote_port: 9005", "9001"),
        ([], {"RTUNNEL_TUNNEL": "9002:2, 9003:[::1]:3"}, "local: 1\nremote_port: 9001", "9002 9003"),
        ([], {"RTUNNEL_LOCAL": ":1", "RTUNNEL_REMOTE_PORT": "9001"}, "tunnels: ['9002:2']", "9001"),
        (["--tunnel=9002:2"], {"RTUNNEL_LOCAL": ":1"}, "", "9002"),
        ([], {}, "local: 1\ntunnels: ['9002:2']", "0 9002"),
        # With them goes what is published.
        (["--publish=udp:53=53", "--tunnel=9002:2", "--local=:1"], {}, "", "0 9002 53"),
        (["--publish=udp:53=53"], {"RTUNNEL_PUBLISH": "tcp:1=1", "RTUNNEL_TUNNEL": "2:2"}, "tunnels: ['9009:9']", "53"),
        (["--publish=udp:53=53"], {"RTUNNEL_LOCAL": ":1"}, "local: 1\npublish: [tcp:1=1]", "53"),
        (["--tunnel=9002:2"], {"RTUNNEL_PUBLISH": "tcp:1=1"}, "", "9002"),
        ([], {"RTUNNEL_PUBLISH": "tcp:1=[::1]:1, udp:1-3=4-6"}, "tunnels: ['9009:9']", "1 1 2 3"),
        ([], {}, "tunnels: ['9002:2', udp:53=53]\npublish: [tcp:1-2=1-2]", "9002 1 2 53"),
    ],
)
def test_tunnels_of_a_higher_source_replace_those_of_a_lower(
    flags: list[str],
    environ: dict[str, str],
    file: str,
    expected: str,
    config: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    settings = parse_client("--server=:7000", *flags, "--config", config(file))
    assert " ".join(str(tunnel.remote_port) for tunnel in settings.tunnels) == expected


@pytest.mark.parametrize(("options_class", "declared", "_"), PLUGINS)
def test_help(options_class: type[PluginOptions], declared: tuple[Setting, ...], _: object) -> None:
    text = options_class().getUsage(100)
    words = " ".join(text.split())
    for setting in declared:
        assert f"--{setting.name}{'' if setting.is_switch else '='}" in text
        assert setting.help in words
        assert not setting.shown_default or f"[default: {setting.shown_default}]" in words
    for word in ("--config=", "RTUNNEL_LOG_LEVEL", "Examples:", "    rtunnel "):
        assert word in text


@pytest.mark.parametrize("settings", [SERVER, CLIENT])
def test_a_shown_default_is_the_default(settings: tuple[Setting, ...]) -> None:
    for setting in settings:
        if setting.shown_default:
            assert setting.kind.coerce(setting.shown_default) == setting.default, setting.name


@pytest.mark.parametrize("module", [rtunnel_server, rtunnel_client])
def test_examples_in_the_help_work(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    for example in module.Options.examples:
        words = shlex.split(example.partition("  #")[0])
        start = words.index("rtunnel")
        if not {"--config", "--clients", "pki"} & set(words):
            module.Options().parseOptions([word for word in words[start + 2 :] if word != "--tls"])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        rtunnel_server.Options().parseOptions(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"rtunnel \S+ \(Twisted \S+\)\n", capsys.readouterr().out)


SERVERS = tuple(map(DialAddress.parse, ("a.example:7000", "b.example:7001")))


@pytest.mark.parametrize("source", ["flags", "flag", "environment", "list", "text"])
def test_several_servers(source: str, config: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--local=:80", "--links=2"]
    if source == "environment":
        monkeypatch.setenv("RTUNNEL_SERVER", "a.example:7000, b.example:7001")
    elif source == "flags":
        arguments += ["--server=a.example:7000", "--server=b.example:7001"]
    elif source == "flag":
        arguments += ["--server=a.example:7000,b.example:7001"]
    else:
        text = {"list": "[a.example:7000, b.example:7001]", "text": "a.example:7000, b.example:7001"}[source]
        arguments += ["--config", config(f"server: {text}")]
    settings = parse_client(*arguments)
    assert settings.servers == SERVERS
    assert settings.links == 2
    assert settings.first_hosts == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("server: [a:1, a:1]", "has 'a:1' twice"),
        ("server: []", "write the address of a server"),
        ("server:\n- a:1\n- b", "line 3: key 'server': 'b' has no port"),
        ("server: a:1\nlinks: 0", "links"),
    ],
)
def test_wrong_servers(file: str, complaint: str, config: Write) -> None:
    with pytest.raises(usage.UsageError, match=re.escape(complaint)):
        parse_client("--local=:80", "--config", config(file))
