"""Mistakes in the options of the WebRTC tunnel: each is one line that says where, and what to write."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec

import pytest
from twisted.python import usage

from rtunnel.errors import ConfigError
from rtunnel.options.plugins import rtc_client, rtc_common, rtc_host, rtc_signal
from rtunnel.options.plugins.rtc_common import RtcOptions
from rtunnel.options.settings.rtc import ALL
from tests.options.conftest import Write
from tests.options.rtc_parts import parse, parse_signal

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


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
        assert str(caught.value).startswith(f"{path}: line 1: {message}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options_class", "arguments", "message"),
    [
        (
            rtc_signal.Options,
            ["--addr=ws://x:1"],
            "flag --addr: 'ws://x:1' is a URL; write only its host and port, x:1",
        ),
        (rtc_signal.Options, ["--tls-cert-file=x"], "flag --tls-cert-file: also needs --tls-key-file"),
        (rtc_signal.Options, ["--tls-key-file=x"], "flag --tls-key-file: also needs --tls-cert-file"),
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
            "flag --valid-tokens: is not a token, which is one word of printable",
        ),
        (rtc_host.Options, [], "--id is missing; write for example --id myhost"),
        (rtc_client.Options, [], "--id is missing; write for example --id myhost"),
        (rtc_host.Options, ["--id="], "flag --id: is empty"),
        (rtc_host.Options, [f"--id={'x' * 129}"], "flag --id: 'xxx"),
        (rtc_host.Options, ["--id=a\tb"], "flag --id: 'a\\tb' is not an ID; write printable text of up to 128"),
        (rtc_host.Options, ["--iid=x"], "option --iid not recognized; did you mean '--id'?"),
        (rtc_host.Options, ["--id=x", "--local=:1"], "option --local not recognized"),
        (rtc_host.Options, ["--id=x", "--protocol=sctp"], "flag --protocol: 'sctp' is not one of tcp, udp"),
        (rtc_host.Options, ["--id=x", "--token="], ""),
        (
            rtc_host.Options,
            ["--id=x", "--token=a b"],
            "flag --token: is not a token, which is one word of printable ASCII",
        ),
        (rtc_host.Options, ["--id=x", f"--token={'t' * 1025}"], "flag --token: is not a token: it has 1025 characters"),
        (
            rtc_host.Options,
            ["--id=x", "--reconnect-min=40"],
            "flag --reconnect-min: 40 is too high; it must be at most --reconnect-max, which is 30",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--initial-credit=5M"],
            "flag --initial-credit: 5M is too high; it must be at most --max-window, which is 4M",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--peer-buffer=1K"],
            "flag --peer-buffer: 1K is too low; it must be at least --initial-credit, which is 64K",
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
            "flag --turn-secret: cannot be combined with --turn-credential; keep one of them",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--turn-user=x"],
            "flag --turn-user: has no effect without a server; add --turn-server turn:host:3478",
        ),
        (
            rtc_host.Options,
            ["--id=x", "--ca-file=ca.pem"],
            "flag --ca-file: has no effect without TLS, and --signal is ws://localhost:8080; write wss://",
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


@pytest.mark.parametrize(
    ("options_class", "arguments", "gone", "named"),
    [
        (rtc_signal.Options, [], {"autobahn", "aiortc"}, "autobahn"),
        (rtc_host.Options, ["--id=x"], {"aiortc"}, "aiortc"),
        (rtc_client.Options, ["--id=x"], {"autobahn", "aiortc", "aioice"}, "autobahn and aiortc and aioice"),
    ],
)
def test_packages_that_are_not_installed(
    options_class: type[RtcOptions],
    arguments: list[str],
    gone: set[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rtc_common, "find_spec", lambda name: None if name in gone else find_spec(name))
    with pytest.raises(usage.UsageError) as caught:
        options_class().parseOptions(arguments)
    how = f"{sys.executable} -m pip install rtunnel"
    assert str(caught.value) == f"WebRTC needs {named}, not installed here: {how}"
