"""The options of the WebRTC tunnel as the manual of the replaced program promises them."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.python import usage

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.options.plugins import rtc_client, rtc_host, rtc_signal
from rtunnel.options.plugins.rtc_common import RtcOptions
from rtunnel.options.settings.rtc import ALL
from rtunnel.rtc.settings import (
    ForwardSettings,
    IceSettings,
    ServiceSettings,
    SignalSettings,
    SignalUrl,
)
from tests.options.conftest import Write
from tests.options.rtc_parts import DECLARED, STUN, parse, parse_client, parse_host, parse_signal, udp
from tests.tls.parts import Authority

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


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

TWICE = """
server:
  addr: ":8081"
  allowed-origins: ["*"]
  auth:
    valid-tokens: []
  tls: {cert-file: ""}
signal: "ws://localhost:8080"
server:
  valid-tokens: ["my-secret-token"]
  tls: {key-file: ""}
  addr: ":8082"
host:
  id: myhost
"""
"""A file such as its users have: the section of the server twice, and the key that its server really obeys."""


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

    def test_its_variables_are_all_there(self) -> None:
        assert {setting.reference_variable for setting in ALL if setting.in_reference} == {
            "WTT_SIGNAL",
            "WTT_PROTOCOL",
            "WTT_TOKEN",
            "WTT_STUN_SERVER",
            "WTT_SERVER_ADDR",
            "WTT_SERVER_TLS_CERT_FILE",
            "WTT_SERVER_TLS_KEY_FILE",
            "WTT_SERVER_ALLOWED_ORIGINS",
            "WTT_SERVER_AUTH_VALID_TOKENS",
            "WTT_HOST_ID",
            "WTT_HOST_REMOTE",
            "WTT_CLIENT_ID",
            "WTT_CLIENT_LOCAL",
        }

    def test_its_server_twice(self, config: Write) -> None:
        path = config(TWICE, "config.yaml")
        options = rtc_signal.Options()
        options.parseOptions(["--config", path])
        assert options.settings == SignalSettings(ListenAddress.parse(":8082"), valid_tokens=("my-secret-token",))
        assert options.notes == [
            f"{path}: line 9: section 'server' is there twice; the two count as one",
            f"{path}: line 11: section 'tls' is there twice; the two count as one",
            f"{path}: line 12: key 'addr' is there twice; this one counts",
            f"{path}: key 'server.valid_tokens': is taken for 'server.auth.valid_tokens', which is its name here",
        ]
        host = rtc_host.Options()
        host.parseOptions(["--config", path])
        assert (host.settings.id, len(host.notes)) == ("myhost", 3)

    def test_it_is_told(self, config: Write, logged: list[tuple[str, str]]) -> None:
        config(TWICE, "config.yaml")
        self._parsed().tell()
        assert ("warn", "config.yaml: line 9: section 'server' is there twice; the two count as one") in logged

    @staticmethod
    def _parsed() -> rtc_signal.Options:
        options = rtc_signal.Options()
        options.parseOptions([])
        return options

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("signal: ws://a\nsignal: ws://b\n", "line 2: key 'signal' occurs twice; keep one"),
            ("server: {addr: ':1', addr: ':2'}\n", "line 1: key 'addr' occurs twice; keep one"),
            ("server: {addr: ':1'}\nserver: x\n", "line 2: key 'server' occurs twice; keep one"),
            ("server: {valid-tokens: [{}]}\n", "line 1: key 'server.valid_tokens': "),
        ],
    )
    def test_what_is_still_an_error(self, content: str, problem: str, config: Write) -> None:
        path = config(content, "config.yaml")
        with pytest.raises(usage.UsageError) as caught:
            parse_signal("--config", path)
        assert str(caught.value).startswith(f"{path}: {problem}")

    def test_tokens_under_both_keys(self, config: Write) -> None:
        path = config("server: {valid-tokens: [old], auth: {valid-tokens: [new]}}", "config.yaml")
        with pytest.raises(usage.UsageError) as caught:
            parse_signal("--config", path)
        why = "keys 'server.auth.valid_tokens' and 'server.valid_tokens' mean the same; keep one"
        assert str(caught.value) == f"{path}: line 1: {why}"
        path = config("server: {valid-tokens: [a], auth: {valid-tokens: [a]}}", "config.yaml")
        assert parse_signal("--config", path).valid_tokens == ("a",)

    @pytest.mark.parametrize(
        ("variable", "value", "note"),
        [
            (
                "WTT_SERVER_TLS_CERT_FILE",
                "x.crt",
                "this server speaks TLS, so hosts and clients need wss://",
            ),
            ("WTT_SERVER_ALLOWED_ORIGINS", "https://a.example", "web pages of other origins are refused"),
            ("WTT_SERVER_AUTH_VALID_TOKENS", "t", "hosts and clients need one of these tokens"),
            ("WTT_SERVER_ADDR", ":1", ""),
            ("RTUNNEL_VALID_TOKENS", "t", ""),
        ],
    )
    def test_variables_that_it_ignores(
        self, variable: str, value: str, note: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """What was of no effect there must not surprise here."""
        if value == "x.crt":
            holder = Authority(tmp_path / "pki", kind="Ed25519").server("x", kind="Ed25519")
            monkeypatch.setenv("WTT_SERVER_TLS_KEY_FILE", str(holder.key))
            value = str(holder.cert)
        monkeypatch.setenv(variable, value)
        options = self._parsed()
        expected = f"environment variable {variable}: the Go program ignores this, but here it counts: {note}"
        assert options.notes == ([expected] if note else [])

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
