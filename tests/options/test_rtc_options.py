"""The options of the WebRTC tunnel's three plugins: every source of every setting, the file's layout, the mistakes."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python import usage

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.errors import ConfigError
from rtunnel.options.plugins import rtc_client, rtc_host, rtc_signal, rtunnel_client as client, rtunnel_server
from rtunnel.options.plugins.rtc_common import RtcOptions
from rtunnel.options.settings.declaration import Setting
from rtunnel.options.settings.rtc import ALL, CLIENT, HOST, SIGNAL, VARIABLES
from rtunnel.rtc.settings import (
    ClientSettings,
    ForwardSettings,
    HostSettings,
    IceSettings,
    ServiceSettings,
    SignalClientSettings,
    SignalSettings,
    SignalUrl,
    TurnServer,
    UdpAddress,
)
from tests.tls.parts import Authority

Write = Callable[..., str]

MANUAL = """
# Common
signal: "ws://localhost:8080"
protocol: "tcp"

stun:
  server: "stun:stun.l.google.com:19302"

# Signaling server
server:
  addr: ":8080"
  allowed-origins: ["*"]
  tls:
    cert-file: ""
    key-file: ""
  auth:
    valid-tokens: []  # e.g. ["my-secret-token"]

# Host
host:
  id: "myhost"
  remote: "localhost:25565"

# Client
client:
  id: "myhost"
  local: "localhost:25565"

# Optional: default bearer token to send from host/client when dialing the server
token: ""
"""
"""The sample file of the replaced program's manual, as it is there."""

STUN = ("stun.l.google.com", 19302)
URL = SignalUrl("ws://localhost:8080", False, "localhost", 8080)


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("RTUNNEL_", "WTT_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(tmp_path: Path) -> Write:
    """Write a configuration file, and return its path."""

    def write(content: str, name: str = "x.yaml") -> str:
        path = tmp_path / name
        path.write_text(content)
        return str(path)

    return write


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki", kind="ECDSA")


@pytest.fixture
def logged() -> Iterator[list[tuple[str, str]]]:
    """What is logged: levels and texts."""
    events: list[tuple[str, str]] = []

    def note(event: Any) -> None:
        level: Any = event.get("log_level", LogLevel.info)
        events.append((level.name, (event.get("log_format") or "").format(**event)))

    observer: Any = note
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


def parse(options_class: type[Any], *arguments: str) -> Any:
    options = options_class()
    options.parseOptions(list(arguments))
    return options.settings


def parse_signal(*arguments: str) -> SignalSettings:
    settings: SignalSettings = parse(rtc_signal.Options, *arguments)
    return settings


def parse_host(*arguments: str) -> HostSettings:
    settings: HostSettings = parse(rtc_host.Options, "--id=x", *arguments)
    return settings


def parse_client(*arguments: str) -> ClientSettings:
    settings: ClientSettings = parse(rtc_client.Options, "--id=x", *arguments)
    return settings


def udp(host: str, port: int, text: str) -> UdpAddress:
    return UdpAddress(text, host, port)


class TestDefaults:
    """They are those of the manual, and otherwise those of the services."""

    def test_signal(self) -> None:
        assert parse_signal() == SignalSettings(ListenAddress.parse(":8080"))

    def test_host(self) -> None:
        assert parse_host() == HostSettings(
            id="x",
            signal=SignalClientSettings(URL),
            ice=IceSettings(stun_server=STUN),
            services=(ServiceSettings("", DialAddress.parse("localhost:25565")),),
        )

    def test_client(self) -> None:
        assert parse_client() == ClientSettings(
            id="x",
            signal=SignalClientSettings(URL),
            ice=IceSettings(stun_server=STUN),
            forwards=(ForwardSettings("", ListenAddress.parse("localhost:25565")),),
        )

    @pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.name)
    def test_what_the_help_shows_is_the_default(self, setting: Setting) -> None:
        if setting.shown_default:
            assert setting.kind.coerce(setting.shown_default) == setting.default


# One value for each setting that is not its default: as text, as YAML, what the plugin gets, and where it is.
LOG_VALUES: dict[str, tuple[str, object, object, str]] = {
    "log-format": ("json", "json", "json", ""),
    "log-level": ("warn", "warn", "warn", ""),
}
END_VALUES: dict[str, tuple[str, object, object, str]] = {
    "signal": ("wss://h/p", "wss://h/p", SignalUrl("wss://h/p", True, "h", 443, "/p"), "signal.url"),
    "protocol": ("udp", "udp", "udp", ""),
    "token": ("my-token", "my-token", "my-token", "signal.token"),
    "stun-server": ("stun:h", "stun:h", ("h", 3478), "ice.stun_server"),
    "turn-server": ("turn:h,turns:h", ["turn:h", "turns:h"], (TurnServer("h"), TurnServer("h", 5349, "tcp", True)), ""),
    "turn-user": ("me", "me", "me", "ice.turn_user"),
    "turn-credential": ("pass", "pass", "pass", "ice.turn_credential"),
    "ice-interface": ("lo,10.0.0.9/8", ["lo", "10.0.0.9/8"], ("lo", "10.0.0.0/8"), "ice.interfaces"),
    "reconnect-min": ("2", 2, 2.0, "signal.reconnect_min"),
    "reconnect-max": ("20", 20, 20.0, "signal.reconnect_max"),
    "connect-timeout": ("3", 3, 3.0, "signal.connect_timeout"),
    "drain": ("0", 0, 0.0, "drain"),
    "udp-idle": ("1m", "1m", 60.0, "udp_idle"),
    "max-flows": ("5", 5, 5, "max_flows"),
    "max-streams": ("6", 6, 6, "limits.max_streams"),
    "initial-credit": ("2K", 2048, 2048, "limits.initial_credit"),
    "max-window": ("1M", "1M", 1 << 20, "limits.max_window"),
    "peer-buffer": ("2M", "2M", 2 << 20, "limits.peer_buffer"),
    **LOG_VALUES,
}
VALUES: dict[type[RtcOptions], dict[str, tuple[str, object, object, str]]] = {
    rtc_signal.Options: {
        "addr": ("[::1]:1", "[::1]:1", ListenAddress.parse("[::1]:1"), "addr"),
        "allowed-origins": ("http://a,https://*.b", ["http://a", "https://*.b"], ("http://a", "https://*.b"), ""),
        "valid-tokens": ("one,two", ["one", "two"], ("one", "two"), "valid_tokens"),
        "max-hosts": ("1", 1, 1, "max_hosts"),
        "max-clients": ("2", 2, 2, "max_clients"),
        "max-rate": ("3", 3, 3, "max_rate"),
        "max-per-address": ("0", 0, 0, "max_per_address"),
        "max-message": ("32K", "32K", 32768, "max_message"),
        **LOG_VALUES,
    },
    rtc_host.Options: {
        "id": ("h", "h", "h", "id"),
        "remote": ("udp:h:9", "udp:h:9", "udp:h:9", ""),
        "service": ("w=:80", [{"name": "w", "remote": 80}], (ServiceSettings("w", DialAddress.parse(":80")),), ""),
        "dial-timeout": ("4", 4, 4.0, "dial_timeout"),
        "max-clients": ("9", 9, 9, "max_clients"),
        **END_VALUES,
    },
    rtc_client.Options: {
        "id": ("c", "c", "c", "id"),
        "local": (":9", ":9", ":9", ""),
        "forward": (":8=w", [{"local": 8, "service": "w"}], (ForwardSettings("w", ListenAddress.parse(":8")),), ""),
        "wait-timeout": ("7", 7, 7.0, "wait_timeout"),
        **END_VALUES,
    },
}
DECLARED = {rtc_signal.Options: SIGNAL, rtc_host.Options: HOST, rtc_client.Options: CLIENT}
# These exclude each other or take files that must be there; they have tests of their own.
ELSEWHERE = {"turn-secret", "ca-file", "tls-cert-file", "tls-key-file"}


def nested(pairs: dict[str, object]) -> dict[str, Any]:
    """The file in which keys such as ``a.b`` are sections."""
    found: dict[str, Any] = {}
    for key, value in pairs.items():
        *sections, name = key.split(".")
        inner = found
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return found


@pytest.mark.parametrize("source", ["flag", "environment", "file", "file with dashes"])
@pytest.mark.parametrize("options_class", VALUES)
def test_every_setting_from_every_source(
    options_class: type[RtcOptions], source: str, config: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = VALUES[options_class]
    settings = [setting for setting in DECLARED[options_class] if setting.name not in ELSEWHERE]
    assert {setting.name for setting in settings} == set(values)
    arguments: list[str] = []
    if source == "flag":
        arguments = [f"--{setting.name}={values[setting.name][0]}" for setting in settings]
    elif source == "environment":
        for setting in settings:
            monkeypatch.setenv(setting.variable, values[setting.name][0])
    else:
        text = {"file": "_", "file with dashes": "-"}[source]
        file = nested({setting.key.replace("_", text): values[setting.name][1] for setting in settings})
        arguments = ["--config", config(json.dumps(file), "x.json")]
    options: Any = options_class()
    # A flag --protocol is an error where nothing uses it; here the service without a name does.
    options.parseOptions(arguments)
    for name, (_, _, expected, place) in values.items():
        assert options[name] == expected, name
        found = options.settings
        for attribute in place.split(".") if place else ():
            found = getattr(found, attribute)
        assert not place or found == expected, name


class TestReference:
    """What the manual of the replaced program promises."""

    def test_its_file(self, config: Write) -> None:
        path = config(MANUAL, "config.yaml")
        assert parse_signal() == parse_signal("--config", path) == SignalSettings(ListenAddress.parse(":8080"))
        host, client = parse(rtc_host.Options), parse(rtc_client.Options, "--config", path)
        assert (host.id, host.services, host.signal.token) == ("myhost", parse_host().services, None)
        assert (client.id, client.forwards, client.ice) == ("myhost", parse_client().forwards, IceSettings(STUN))

    @pytest.mark.parametrize(
        ("options_class", "variable", "value", "place", "expected"),
        [
            (rtc_signal.Options, "WTT_SERVER_ADDR", ":1", "addr", ListenAddress.parse(":1")),
            (
                rtc_signal.Options,
                "WTT_SERVER_ALLOWED_ORIGINS",
                "http://localhost:3000,https://example.com",
                "allowed_origins",
                ("http://localhost:3000", "https://example.com"),
            ),
            (
                rtc_signal.Options,
                "WTT_SERVER_AUTH_VALID_TOKENS",
                "my-secret-token,another-token",
                "valid_tokens",
                ("my-secret-token", "another-token"),
            ),
            (rtc_host.Options, "WTT_SIGNAL", "ws://h:1", "signal.url", SignalUrl("ws://h:1", False, "h", 1)),
            (rtc_host.Options, "WTT_TOKEN", "t", "signal.token", "t"),
            (rtc_host.Options, "WTT_STUN_SERVER", "stun:h:1", "ice.stun_server", ("h", 1)),
            (rtc_host.Options, "WTT_HOST_ID", "h", "id", "h"),
            (
                rtc_host.Options,
                "WTT_HOST_REMOTE",
                ":80",
                "services",
                (ServiceSettings("", DialAddress.parse(":80")),),
            ),
            (rtc_client.Options, "WTT_CLIENT_ID", "c", "id", "c"),
            (
                rtc_client.Options,
                "WTT_CLIENT_LOCAL",
                ":80",
                "forwards",
                (ForwardSettings("", ListenAddress.parse(":80")),),
            ),
        ],
    )
    def test_its_variables(
        self,
        options_class: type[RtcOptions],
        variable: str,
        value: str,
        place: str,
        expected: object,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if variable not in ("WTT_HOST_ID", "WTT_CLIENT_ID"):
            monkeypatch.setenv("RTUNNEL_ID", "x")
        monkeypatch.setenv(variable, value)
        found = parse(options_class)
        for attribute in place.split("."):
            found = getattr(found, attribute)
        assert found == expected

    def test_its_variables_are_those_of_its_keys(self) -> None:
        for setting in ALL:
            if setting.reference_variable:
                assert setting.reference_variable == f"WTT_{setting.key.replace('.', '_').upper()}"

    def test_its_protocol(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WTT_PROTOCOL", "udp")
        assert parse_host("--remote=127.0.0.1:9999").services == (
            ServiceSettings("", udp("127.0.0.1", 9999, "127.0.0.1:9999")),
        )

    @pytest.mark.parametrize(
        ("argument", "advice"),
        [
            ("--v=2", "write --log-level debug"),
            ("-v=2", "write --log-level debug"),
            ("--v", "write --log-level debug"),
            ("-alsologtostderr", "the log goes to the terminal under twistd -n"),
            ("--alsologtostderr", "the log goes to the terminal under twistd -n"),
            ("-log_dir=/tmp", "write twistd --logfile=FILE before the name of the plugin"),
            ("--log_dir", "write twistd --logfile=FILE before the name of the plugin"),
        ],
    )
    @pytest.mark.parametrize("options_class", DECLARED)
    def test_glog(self, options_class: type[RtcOptions], argument: str, advice: str) -> None:
        with pytest.raises(usage.UsageError) as caught:
            parse(options_class, argument)
        assert str(caught.value) == f"{argument} is an option of glog, which is not used here; {advice}"


class TestSources:
    def test_the_order(self, config: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        path = config("token: file")
        assert parse_host("--config", path).signal.token == "file"
        monkeypatch.setenv("WTT_TOKEN", "theirs")
        assert parse_host("--config", path).signal.token == "theirs"
        monkeypatch.setenv("RTUNNEL_TOKEN", "ours")
        assert parse_host("--config", path).signal.token == "ours"
        assert parse_host("--config", path, "--token=flag").signal.token == "flag"

    def test_an_empty_variable_of_ours_lets_theirs_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RTUNNEL_TOKEN", "")
        monkeypatch.setenv("WTT_TOKEN", "theirs")
        assert parse_host().signal.token == "theirs"

    def test_no_stun_server(self, config: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        assert parse_host("--stun-server=").ice.stun_server is None
        path = config("stun: {server: ''}")
        assert parse_host("--config", path).ice.stun_server is None
        assert parse_host("--config", config("stun: {server: }", "y.yaml")).ice.stun_server == STUN
        assert parse_host("--config", path, "--stun-server=stun:h").ice.stun_server == ("h", 3478)
        monkeypatch.setenv("WTT_STUN_SERVER", "")
        assert parse_host().ice.stun_server is None
        monkeypatch.setenv("RTUNNEL_STUN_SERVER", "stun:h:1")
        assert parse_host().ice.stun_server == ("h", 1)
        monkeypatch.setenv("WTT_STUN_SERVER", "stun:h:2")
        monkeypatch.setenv("RTUNNEL_STUN_SERVER", "")
        assert parse_host().ice.stun_server is None

    def test_config_yaml_of_the_current_directory(
        self, config: Write, monkeypatch: pytest.MonkeyPatch, logged: list[tuple[str, str]]
    ) -> None:
        options = rtc_host.Options()
        with pytest.raises(usage.UsageError, match="--id is missing"):
            options.parseOptions([])
        config("host: {id: here}", "config.yaml")
        other = config("host: {id: other}")
        options = rtc_host.Options()
        options.parseOptions([])
        assert options.settings.id == "here"
        options.tell()
        assert ("info", "settings from the file config.yaml") in logged
        assert parse(rtc_host.Options, "--config", other).id == "other"
        monkeypatch.setenv("RTUNNEL_CONFIG", other)
        assert parse(rtc_host.Options).id == "other"
        assert parse(rtc_host.Options, "--config=/dev/null", "--id=x").id == "x"

    def test_a_directory_of_that_name_is_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").mkdir()
        parse_host()

    def test_rtunnel_server_does_not_read_it(self, config: Write) -> None:
        config("zzz: 1", "config.yaml")
        rtunnel_server.Options().parseOptions([])
        with pytest.raises(usage.UsageError, match=r"^config\.yaml: unknown key 'zzz'$"):
            parse_signal()

    @pytest.mark.parametrize("options_class", DECLARED)
    def test_keys_and_variables_of_the_others_do_no_harm(
        self, options_class: type[RtcOptions], config: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = {setting.name for setting in DECLARED[options_class]}
        others = [setting for setting in ALL if setting.name not in own]
        assert others
        ids: dict[str, object] = {"host.id": "x", "client.id": "x"}
        path = config(json.dumps(nested(ids | {setting.key: "?" for setting in others})), "x.json")
        for variable in VARIABLES - {name for setting in DECLARED[options_class] for name in setting.variables}:
            monkeypatch.setenv(variable, "?")
        parse(options_class, "--config", path)

    def test_nor_to_the_reverse_tunnel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for variable in VARIABLES - {name for setting in client.Options.declared for name in setting.variables}:
            monkeypatch.setenv(variable, "?")
        client.Options().parseOptions(["--server=:7000", "--local=:80"])

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("WTT_HOST_REMOTES", "environment variable WTT_HOST_REMOTES: is unknown; did you mean 'WTT_HOST_REMOTE'?"),
            ("RTUNNEL_STUN_SERVERS", "is unknown; did you mean 'RTUNNEL_STUN_SERVER'?"),
        ],
    )
    def test_a_misspelt_variable(self, name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "x")
        with pytest.raises(usage.UsageError) as caught:
            parse_host()
        assert message in str(caught.value)

    def test_lists_may_be_repeated(self) -> None:
        settings = parse_signal("--valid-tokens=a,b", "--valid-tokens=c", "--allowed-origins=")
        assert (settings.valid_tokens, settings.allowed_origins) == (("a", "b", "c"), ())


class TestFileErrors:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("sever: {addr: 1}", "unknown key 'sever'; did you mean 'server'?"),
            ("server: {adr: 1}", "unknown key 'server.adr'; did you mean 'server.addr'?"),
            ("server: {tls: {cert: x}}", "unknown key 'server.tls.cert'; did you mean 'server.tls.cert_file'?"),
            ("server: 1.2.3.4:7000", "key 'server': is text and not a mapping; write lines such as 'key: value'"),
            ("server: {tls: [x]}", "key 'server.tls': is a list and not a mapping"),
            ("host: {idd: x}", "unknown key 'host.idd'; did you mean 'host.id'?"),
            ("server: {max_rate: 1, max-rate: 2}", "key 'server': keys 'max_rate' and 'max-rate' are the same"),
            ("server: {max-message: 1}", "key 'server.max_message': 1 is out of range; a size here is 4K to 64K"),
            ("server: {max-message: 65K}", "key 'server.max_message': '65K' is out of range; a size here is 4K to 64K"),
            ("server: {auth: {valid-tokens: ['a b']}}", "key 'server.auth.valid_tokens': is not a token"),
        ],
    )
    def test_signal(self, content: str, message: str, config: Write) -> None:
        path = config(content)
        with pytest.raises(usage.UsageError) as caught:
            parse_signal("--config", path)
        assert str(caught.value).startswith(f"{path}: {message}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options_class", "arguments", "message"),
    [
        (
            rtc_signal.Options,
            ["--addr=ws://x:1"],
            "flag --addr: 'ws://x:1' is a URL; write only its host and port, x:1",
        ),
        (rtc_signal.Options, ["--tls-cert-file=x"], "flag --tls-cert-file: needs --tls-key-file too"),
        (rtc_signal.Options, ["--tls-key-file=x"], "flag --tls-key-file: needs --tls-cert-file too"),
        (rtc_signal.Options, ["--max-hosts=0"], "flag --max-hosts: 0 is out of range"),
        (rtc_signal.Options, ["--max-per-address=-1"], "flag --max-per-address: -1 is out of range"),
        (
            rtc_signal.Options,
            ["--allowed-origins=https://a,example.com"],
            "flag --allowed-origins: 'example.com' is not an origin; write scheme and host, such as https://my-app.com",
        ),
        (
            rtc_signal.Options,
            ["--valid-tokens=geheim\u00e4"],
            "flag --valid-tokens: is not a token: one word of printable",
        ),
        (rtc_host.Options, [], "--id is missing; write for example --id myhost"),
        (rtc_client.Options, [], "--id is missing; write for example --id myhost"),
        (rtc_host.Options, ["--id="], "flag --id: is empty"),
        (rtc_host.Options, [f"--id={'x' * 129}"], "flag --id: 'xxx"),
        (rtc_host.Options, ["--id=a\tb"], "flag --id: 'a\tb' is not an ID; write a printable text of up to 128"),
        (rtc_host.Options, ["--iid=x"], "option --iid not recognized; did you mean '--id'?"),
        (rtc_host.Options, ["--id=x", "--local=:1"], "option --local not recognized"),
        (rtc_host.Options, ["--id=x", "--protocol=sctp"], "flag --protocol: 'sctp' is not one of tcp, udp"),
        (rtc_host.Options, ["--id=x", "--token="], ""),
        (rtc_host.Options, ["--id=x", "--token=a b"], "flag --token: is not a token: one word of printable ASCII is"),
        (rtc_host.Options, ["--id=x", f"--token={'t' * 1025}"], "flag --token: is not a token: it has 1025 letters"),
        (
            rtc_host.Options,
            ["--id=x", "--reconnect-min=40"],
            "flag --reconnect-min: 40 is too much; it must be at most --reconnect-max, which is 30",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--initial-credit=5M"],
            "flag --initial-credit: 5M is too much; it must be at most --max-window, which is 4M",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--peer-buffer=1K"],
            "flag --peer-buffer: 1K is too little; it must be at least --initial-credit, which is 64K",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--turn-server=turn:h"],
            "flag --turn-server: needs --turn-user and --turn-credential, or --turn-secret",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--turn-server=turn:h", "--turn-credential=x"],
            "flag --turn-server: needs --turn-user and --turn-credential, or --turn-secret",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--turn-server=turn:h", "--turn-credential=x", "--turn-secret=y"],
            "flag --turn-secret: excludes --turn-credential; keep one of them",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--turn-user=x"],
            "flag --turn-user: says nothing without a server; add --turn-server turn:host:3478",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--ca-file=ca.pem"],
            "flag --ca-file: says nothing without TLS, and --signal is ws://localhost:8080; write wss://",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--signal=wss://h", "--ca-file=/nonexistent"],
            "cannot read /nonexistent: No such file or directory (see --ca-file)",
        ),
        (rtc_host.Options, ["--id=x", "--remote=h"], "flag --remote: 'h' has no port; write h:80"),
        (
            rtc_host.Options,
            ["--id=x", "--protocol=udp", "--remote=unix:/x"],
            "flag --remote: 'unix:/x' is not an address for UDP; write :53, host:53, 1.2.3.4:53 or [::1]:53",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--protocol=udp", "--remote=tcp:h:1"],
            "flag --remote: 'tcp:h:1' is an address for TCP; leave out tcp:, or the protocol udp",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--protocol=udp", "--service=a=:1"],
            "flag --protocol: is for --remote; with --service write udp: before an address for UDP",
        ),
        (rtc_client.Options, ["--id=x", "--local=h"], "flag --local: 'h' has no port; write h:7000"),
        (
            rtc_client.Options,
            ["--id=x", "--protocol=udp", "--local=h:0x"],
            "flag --local: '0x' in 'h:0x' is not a port",
        ),
        (rtc_client.Options, ["--id=x", "stray"], "'stray' is not an option; options begin with two dashes"),
    ],
)
def test_errors(options_class: type[RtcOptions], arguments: list[str], message: str) -> None:
    if not message:
        parse(options_class, *arguments)
        return
    with pytest.raises(usage.UsageError) as caught:
        parse(options_class, *arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


class TestTurn:
    def test_shared_secret(self) -> None:
        ice = parse_host("--turn-server=turn:h:1?transport=tcp", "--turn-secret=s", "--turn-user=u").ice
        assert ice == IceSettings(STUN, (TurnServer("h", 1, "tcp"),), "u", "", "s")

    def test_secrets_are_not_shown(self) -> None:
        host = parse_host("--turn-server=turn:h", "--turn-user=u", "--turn-credential=geheim1", "--token=geheim2")
        signal = parse_signal("--valid-tokens=geheim3")
        assert "geheim" not in repr((host, signal))


class TestTls:
    def test_certificate_of_the_server(self, authority: Authority) -> None:
        holder = authority.server(kind="ECDSA")
        settings = parse_signal(f"--tls-cert-file={holder.cert}", f"--tls-key-file={holder.key}")
        assert (settings.cert, settings.key) == (holder.cert, holder.key)

    def test_paths_are_those_of_the_start(self, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        """A daemon changes its directory."""
        holder = authority.server(kind="ECDSA")
        monkeypatch.chdir(authority.directory)
        monkeypatch.setenv("WTT_SERVER_TLS_CERT_FILE", "server.crt")
        monkeypatch.setenv("WTT_SERVER_TLS_KEY_FILE", "server.key")
        assert parse_signal() == replace(parse_signal(), cert=holder.cert, key=holder.key)

    def test_key_of_another(self, authority: Authority) -> None:
        holder, other = authority.server(kind="ECDSA"), authority.server("other", kind="ECDSA")
        with pytest.raises(usage.UsageError) as caught:
            parse_signal(f"--tls-cert-file={holder.cert}", f"--tls-key-file={other.key}")
        assert str(caught.value) == f"{other.key} is not the key of {holder.cert}; give the two that belong together"

    def test_no_such_file(self, authority: Authority) -> None:
        holder = authority.server(kind="ECDSA")
        with pytest.raises(usage.UsageError, match=r"/nonexistent.*give the server's certificate with --tls-cert-file"):
            parse_signal("--tls-cert-file=/nonexistent", f"--tls-key-file={holder.key}")

    def test_a_ca_of_ones_own(self, authority: Authority) -> None:
        settings = parse_host("--signal=wss://h", f"--ca-file={authority.cert}")
        assert settings.signal.ca_file == settings.ice.ca_file == authority.cert
        turn = ("--turn-server=turns:h", "--turn-secret=s")
        assert parse_host(*turn, f"--ca-file={authority.cert}").ice.ca_file == authority.cert

    def test_a_ca_of_the_file_does_not_matter_for_a_flag_without_tls(self, authority: Authority, config: Write) -> None:
        path = config(f"signal: wss://h\nca_file: {authority.cert}\n")
        assert parse_host("--config", path).signal.ca_file == authority.cert
        parse_host("--config", path, "--signal=ws://h")


class TestToken:
    """A token in the clear is allowed, since the replaced program did it, but the log says so."""

    @pytest.mark.parametrize(
        ("url", "warned"),
        [
            ("ws://192.0.2.1:8080", True),
            ("ws://signal.example.org", True),
            ("wss://signal.example.org", False),
            ("ws://localhost:8080", False),
            ("ws://127.0.0.5", False),
            ("ws://[::1]:8080", False),
        ],
    )
    @pytest.mark.parametrize("token", ["", "my-token"])
    def test_warning(self, url: str, warned: bool, token: str, logged: list[tuple[str, str]]) -> None:
        options = rtc_client.Options()
        options.parseOptions(["--id=x", f"--signal={url}", f"--token={token}"])
        options.tell()
        warnings = [text for level, text in logged if level == "warn"]
        expected = f"the token travels to {url} in the clear, where everybody on the way can read it; use wss://"
        assert warnings == ([expected] if warned and token else [])


class TestHelp:
    @pytest.mark.parametrize("options_class", DECLARED)
    def test_it_has_everything(self, options_class: type[RtcOptions]) -> None:
        text = options_class().getUsage(100)
        words = " ".join(text.split())
        for setting in DECLARED[options_class]:
            assert f"--{setting.name}=" in text
            assert setting.help in words
            assert not setting.shown_default or f"[default: {setting.shown_default}]" in words
        for word in ("--config=", "config.yaml in the current directory", "WTT_SIGNAL", "Examples:"):
            assert word in words

    @pytest.mark.parametrize("module", [rtc_signal, rtc_host, rtc_client])
    def test_its_examples_work(self, module: Any) -> None:
        for example in module.Options.examples:
            words = shlex.split(example)
            start = words.index(module.NAME)
            assert words[start - 2 : start] == ["twistd", "-n"]
            if "--config" not in words and "--tls-cert-file" not in words:
                module.Options().parseOptions(words[start + 1 :])


@pytest.mark.parametrize(
    "value",
    [
        True,
        -1,
        1.5,
        10**30,
        "\0",
        "\ud800",
        "~nobody-of-that-name/x",
        [],
        [None],
        [[]],
        [{}],
        {},
        {"a": 1},
        {1: 2},
        [True],
    ],
    ids=repr,
)
def test_whatever_a_file_holds_ends_as_a_value_or_a_config_error(value: object) -> None:
    for setting in ALL:
        with suppress(ConfigError):
            setting.kind.coerce(value)
