"""The options of the WebRTC tunnel's three plugins: defaults, every source of every setting, the help."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from twisted.python import usage

from rtunnel.acme.settings import default_state_dir
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.cluster.settings import ClusterUrl
from rtunnel.options.plugins import rtc_client, rtc_host, rtc_signal, rtunnel_client as client, rtunnel_server
from rtunnel.options.plugins.rtc_common import RtcOptions
from rtunnel.options.settings.declaration import Setting
from rtunnel.options.settings.rtc import ALL, VARIABLES
from rtunnel.rtc.settings import (
    ClientSettings,
    ForwardSettings,
    HostSettings,
    IceSettings,
    IdentitySettings,
    ServiceSettings,
    SignalClientSettings,
    SignalSettings,
    SignalUrl,
    TurnServer,
)
from tests.options.conftest import Write
from tests.options.rtc_parts import DECLARED, STUN, URL, nested, parse, parse_client, parse_host, parse_signal
from tests.tls.parts import Authority

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


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
            identity=IdentitySettings(default_state_dir(os.environ)),
        )

    def test_client(self) -> None:
        assert parse_client() == ClientSettings(
            id="x",
            signal=SignalClientSettings(URL),
            ice=IceSettings(stun_server=STUN),
            forwards=(ForwardSettings("", ListenAddress.parse("localhost:25565")),),
            identity=IdentitySettings(default_state_dir(os.environ)),
        )

    @pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.name)
    def test_what_the_help_shows_is_the_default(self, setting: Setting) -> None:
        if setting.shown_default:
            assert setting.kind.coerce(setting.shown_default) == setting.default


SIGNALS = SignalUrl("wss://h/p", True, "h", 443, "/p", (SignalUrl("ws://i:1", False, "i", 1),))

# One value for each setting that is not its default: as text, as YAML, what the plugin gets, and where it is.
LOG_VALUES: dict[str, tuple[str, object, object, str]] = {
    "log-format": ("json", "json", "json", ""),
    "log-level": ("warn", "warn", "warn", ""),
    "status-listen": ("127.0.0.1:7070", "127.0.0.1:7070", ListenAddress.parse("127.0.0.1:7070"), ""),
    "status-token": ("s3cret", "s3cret", "s3cret", ""),
}
END_VALUES: dict[str, tuple[str, object, object, str]] = {
    "signal": ("wss://h/p,ws://i:1", ["wss://h/p", "ws://i:1"], SIGNALS, "signal.url"),
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
    "memory": ("1G", "1G", 1 << 30, "memory"),
    "state-dir": ("/s", "/s", Path("/s"), "identity.state_dir"),
    "access-log": ("/var/log/visitors", "/var/log/visitors", Path("/var/log/visitors"), ""),
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
        "memory": ("1G", "1G", 1 << 30, "memory"),
        "cluster": ("rediss://pw@a", "rediss://pw@a", ClusterUrl.parse("rediss://pw@a"), "cluster"),
        **LOG_VALUES,
    },
    rtc_host.Options: {
        "id": ("h", "h", "h", "id"),
        "remote": ("udp:h:9", "udp:h:9", "udp:h:9", ""),
        "service": ("w=:80", [{"name": "w", "remote": 80}], (ServiceSettings("w", DialAddress.parse(":80")),), ""),
        "dial-timeout": ("4", 4, 4.0, "dial_timeout"),
        "check-services": ("no", False, False, "check_services"),
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


# These exclude each other or take files that must be there; they have tests of their own.
ELSEWHERE = {"turn-secret", "ca-file", "tls-cert-file", "tls-key-file"}
ELSEWHERE |= {"status-tls-cert", "status-tls-key", "status-tls-ca"}
# See test_identity_options.py.
ELSEWHERE |= {"identity-cert", "identity-key", "peer-ca", "authorized-clients"}
ELSEWHERE |= {"host-key", "known-hosts", "trust-on-first-use", "host-name"}
# See test_hedge_options.py.
ELSEWHERE |= {"hedge"}


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
        with pytest.raises(usage.UsageError, match=r"^config\.yaml: line 1: unknown key 'zzz'$"):
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


class TestHelp:
    @pytest.mark.parametrize("options_class", DECLARED)
    def test_it_has_everything(self, options_class: type[RtcOptions]) -> None:
        text = options_class().getUsage(100)
        words = " ".join(text.split())
        for setting in DECLARED[options_class]:
            assert f"--{setting.name}{'' if setting.is_switch else '='}" in text
            assert setting.help in words
            assert not setting.shown_default or f"[default: {setting.shown_default}]" in words
        for word in ("--config=", "config.yaml in the current directory", "WTT_SIGNAL", "Examples:"):
            assert word in words

    @pytest.mark.parametrize("module", [rtc_signal, rtc_host, rtc_client])
    def test_its_examples_work(self, module: Any, tmp_path: Path) -> None:
        server = Authority(tmp_path / "ca", kind="RSA").server(kind="RSA")
        server.cert.rename(tmp_path / "cert.pem")
        server.key.rename(tmp_path / "key.pem")
        for example in module.Options.examples:
            words = shlex.split(example)
            start = words.index("rtunnel")
            if "--config" not in words:
                module.Options().parseOptions(words[start + 2 :])
