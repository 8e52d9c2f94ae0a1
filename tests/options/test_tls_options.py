"""The settings of TLS, tokens and rights: from flags, environment and file, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.python import usage

from rtunnel.access.tokens import find_token
from rtunnel.options.plugins import rtunnel_client, rtunnel_server
from rtunnel.reverse.settings import ClientSettings, ServerSettings
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.policy import GROUPS, Role, TlsSettings
from rtunnel.tls.server_names import sni
from tests.tls.parts import Authority, Holder

CLIENT = ("--server=tunnel.example:7000", "--local=:80")
TOKEN = "correct-horse"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture(autouse=True)
def pki(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place where certificates are looked for, with all that belongs there."""
    authority.server()
    authority.client(file="client")
    for name in ("RTUNNEL_TLS", "RTUNNEL_TOKEN", "RTUNNEL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RTUNNEL_PKI_DIR", str(authority.directory))
    return authority.directory


def parse_server(*arguments: str) -> ServerSettings:
    options = rtunnel_server.Options()
    options.parseOptions(arguments)
    return options.settings


def parse_client(*arguments: str) -> ClientSettings:
    options = rtunnel_client.Options()
    has_server = any(argument.startswith("--server=") for argument in arguments)
    options.parseOptions((*CLIENT[has_server:], *arguments))
    return options.settings


def files(directory: Path, name: str, **more: Any) -> TlsSettings:
    return TlsSettings(directory / f"{name}.crt", directory / f"{name}.key", directory / "ca.crt", **more)


def test_the_flag_alone_is_enough(pki: Path) -> None:
    assert parse_server("--tls").tls == files(pki, "server")
    assert parse_client("--tls").tls == files(pki, "client", server_name="tunnel.example")


def test_an_international_name() -> None:
    """The certificate, the SNI and the look-up have the same form of it."""
    for options in (["--server=bücher.example:7000"], ["--server=192.0.2.1:7000", "--tls-server-name=Bücher.example"]):
        parsed = rtunnel_client.Options()
        parsed.parseOptions([*options, "--local=:80", "--tls"])
        tls = parsed.settings.tls
        assert tls is not None
        assert tls.server_name == "xn--bcher-kva.example"
        assert TlsEngine(Credentials(tls, Role.CLIENT), None, sni("bücher.example")).connection.get_servername() == (
            b"xn--bcher-kva.example"
        )


def test_a_link_local_address(pki: Path) -> None:
    options = rtunnel_client.Options()
    options.parseOptions(["--server=[fe80::1%eth0]:7000", "--local=:80", "--tls"])
    assert options.settings.tls == files(pki, "client", server_name="fe80::1%eth0")


def test_nothing_without_it() -> None:
    assert parse_server().tls is None
    assert parse_client().tls is None


def others(authority: Authority, holder: Holder) -> dict[str, tuple[str, object]]:
    """A value for each setting of both, that is not its default: as text, and as YAML."""
    (authority.directory / "o.crt").write_bytes(authority.cert.read_bytes())
    return {
        "tls": ("1", True),
        "tls-cert": (str(holder.cert), str(holder.cert)),
        "tls-key": (str(holder.key), str(holder.key)),
        "tls-ca": (str(authority.directory / "o.crt"), str(authority.directory / "o.crt")),
        "tls-groups": ("mlkem768,X25519MLKEM768", ["MLKEM768", "X25519MLKEM768"]),
        "tls-allow-classical-certs": ("yes", True),
    }


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
@pytest.mark.parametrize("parse", [parse_server, parse_client])
def test_every_setting_from_every_source(
    source: str, parse: Any, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_client = parse is parse_client
    holder = authority.issue("other", None)
    values = others(authority, holder)
    if is_client:
        values |= {"tls-server-name": ("a.example", "a.example"), "tls-pin": ("AB" * 32, ["ab" * 32])}
    arguments = []
    if source == "flag":
        switches = ("tls", "tls-allow-classical-certs")
        arguments = [f"--{name}" if name in switches else f"--{name}={text}" for name, (text, _) in values.items()]
    elif source == "environment":
        for name, (text, _) in values.items():
            monkeypatch.setenv("RTUNNEL_" + name.upper().replace("-", "_"), text)
    else:
        section = {name.removeprefix("tls-").replace("-", "_"): value for name, (_, value) in values.items()}
        section["enabled"] = section.pop("tls")
        path = tmp_path / "x.json"
        path.write_text(json.dumps({"tls": section}))
        arguments = [f"--config={path}"]
    assert parse(*arguments).tls == TlsSettings(
        holder.cert,
        holder.key,
        authority.directory / "o.crt",
        ("MLKEM768", "X25519MLKEM768"),
        True,
        "a.example" if is_client else "",
        frozenset(["ab" * 32]) if is_client else frozenset(),
    )


def test_the_reference_file(pki: Path, tmp_path: Path) -> None:
    path = tmp_path / "client.yaml"
    path.write_text(
        f"tls: {{enabled: true, cert: {pki}/client.crt, key: {pki}/client.key, ca: {pki}/ca.crt, server_name: ''}}"
    )
    assert parse_client(f"--config={path}").tls == files(pki, "client", server_name="tunnel.example")


def test_flags_win(pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.yaml"
    path.write_text("tls: {enabled: false, cert: /nowhere, groups: MLKEM512}\n")
    monkeypatch.setenv("RTUNNEL_TLS", "1")
    monkeypatch.setenv("RTUNNEL_TLS_GROUPS", "MLKEM1024")
    assert parse_server(f"--config={path}", f"--tls-cert={pki}/server.crt").tls == files(
        pki, "server", groups=("MLKEM1024",)
    )
    monkeypatch.setenv("RTUNNEL_TLS", "0")
    assert parse_server(f"--config={path}", "--tls", f"--tls-cert={pki}/server.crt").tls is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tls-cert=x"], "flag --tls-cert: has no effect without TLS; add --tls (in the file: tls: {enabled: true})"),
        (["--tls-groups=MLKEM768"], "flag --tls-groups: has no effect without TLS; add --tls"),
        (["--tls", "--tls-groups=X25519"], "flag --tls-groups: 'X25519' is not a post-quantum group; "),
        (["--tls", "--tls-cert=/nonexistent/x"], "/nonexistent/x cannot be read: No such file or directory; "),
        (["--tls", "--tls-key=/etc/passwd"], "/etc/passwd is not a private key in PEM; "),
        (["--tls-sert=x"], "option --tls-sert not recognized; did you mean '--tls-cert'?"),
        (["--clients=/nonexistent"], "/nonexistent: cannot be read: No such file or directory"),
        (["--valid-tokens=short"], "flag --valid-tokens: entry 1 is not a token: it has 5 characters"),
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
        (["--tls-pin=ab"], "flag --tls-pin: 'ab' is not the SHA-256 fingerprint of a certificate"),
        (["--tls-server-name=a.example"], "flag --tls-server-name: has no effect without TLS"),
        (["--tls", "--tls-server-name=a b"], "flag --tls-server-name: 'a b' is neither a DNS name nor an IP address"),
        (["--tls", "--server=unix:/run/x"], "--server unix:/run/x has no host name to look for"),
        (["--token=correct-horse"], "flag --token: would travel to tunnel.example:7000 in the clear; use --tls"),
        (["--token=a b c d e f g"], "flag --token: is not a token, which is one word of printable ASCII"),
        (
            ["--token=correct-horse", "--server=192.0.2.1:7000"],
            "flag --token: would travel to 192.0.2.1:7000 in the cl",
        ),
        (["--token=correct-horse", "--server=[2001:db8::1]:7000"], "flag --token: would travel to "),
    ],
)
def test_client_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(usage.UsageError) as caught:
        parse_client(*arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tls"],
        ["--server=localhost:7000"],
        ["--server=127.1.2.3:7000"],
        ["--server=[::1]:7000"],
        ["--server=unix:/run/x"],
        ["--token-over-plain-tcp"],
    ],
)
def test_where_a_token_may_go(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTUNNEL_TOKEN", TOKEN)
    settings = parse_client(*arguments)
    assert settings.token == TOKEN
    assert TOKEN not in repr(settings)


def test_a_server_on_a_socket_needs_a_name(pki: Path) -> None:
    assert parse_client("--tls", "--server=unix:/run/x", "--tls-server-name=a").tls == files(
        pki, "client", server_name="a"
    )


def test_each_of_several_servers_has_its_own_name(pki: Path) -> None:
    several = ("--tls", "--server=a.example:7000", "--server=192.0.2.1:7000")
    settings = parse_client(*several)
    names = [settings.of(server).tls.server_name for server in settings.servers]  # type: ignore[union-attr]
    assert names == ["a.example", "192.0.2.1"]
    # Unless one name is given for all.
    settings = parse_client(*several, "--tls-server-name=b.example")
    names = [settings.of(server).tls.server_name for server in settings.servers]  # type: ignore[union-attr]
    assert names == ["b.example", "b.example"]
    with pytest.raises(usage.UsageError, match="--server unix:/run/x has no host name"):
        parse_client(*several, "--server=unix:/run/x")


def test_tokens_and_clients(tmp_path: Path) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {ports: 8000}")
    config = tmp_path / "server.yaml"
    config.write_text(f"clients: {clients}\nvalid_tokens: ['laptop:correct-horse', other-token]\n")
    admission = parse_server(f"--config={config}").admission
    assert admission.clients == clients
    assert [token.name for token in admission.tokens] == ["laptop", ""]
    assert find_token(admission.tokens, TOKEN) is admission.tokens[0]
    assert TOKEN not in repr(admission)


def test_groups_as_the_default_is_shown() -> None:
    settings = parse_server("--tls", f"--tls-groups={','.join(GROUPS)}")
    assert settings.tls is not None
    assert settings.tls.groups == GROUPS
