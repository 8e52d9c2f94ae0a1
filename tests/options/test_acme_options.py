"""Who ends the TLS of ``https:`` tunnels: the options of ACME, and the key ``tls`` of an entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.python import usage

from rtunnel.acme.settings import KNOWN, AcmeSettings
from rtunnel.options.plugins import rtunnel_client
from rtunnel.reverse.settings import ClientSettings
from rtunnel.tls.policy import CertificateFiles
from tests.options.conftest import Write
from tests.tls.parts import Authority

pytestmark = pytest.mark.usefixtures("nothing_from_outside")

APP = "--publish=https:app.example.org=:3000"
EMAIL = "--acme-email=me@example.org"


def parse(*arguments: str) -> ClientSettings:
    options = rtunnel_client.Options()
    options.parseOptions(["--server=:7000", *arguments])
    return options.settings


def ends(*arguments: str) -> list[Any]:
    return [tunnel.tls for tunnel in parse(*arguments).tunnels]


def error(*arguments: str) -> str:
    with pytest.raises(usage.UsageError) as caught:
        parse(*arguments)
    return str(caught.value)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki", kind="ECDSA")


def test_without_an_address_the_service_ends_tls() -> None:
    assert ends(APP) == [""]
    assert parse(APP).acme is None


def test_with_an_address_the_client_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/rtunnel")
    mixed = [APP, "--publish=tcp:8080=80", "--publish=http:app.example.org=80", "--publish=https:*.dev.example.org=443"]
    settings = parse(EMAIL, *mixed)
    assert {tunnel.protocol + tunnel.host: tunnel.tls for tunnel in settings.tunnels} == {
        "httpsapp.example.org": "auto",
        "tcp": "",
        "httpapp.example.org": "",
        "https*.dev.example.org": "",
    }
    assert settings.acme == AcmeSettings("me@example.org", Path("/var/lib/rtunnel"))


def test_an_address_without_a_name() -> None:
    assert parse(EMAIL, "--publish=tcp:8080=80").acme is None


def test_all_options_of_acme(authority: Authority) -> None:
    given = ["--acme-server=letsencrypt-staging", f"--acme-ca={authority.cert}", "--acme-challenge=http-01"]
    settings = parse(APP, EMAIL, *given, "--state-dir=/x")
    assert settings.acme == AcmeSettings(
        "me@example.org", Path("/x"), KNOWN["letsencrypt-staging"], Path(authority.cert), "http-01"
    )


def test_keys_of_an_entry(config: Write, authority: Authority) -> None:
    holder = authority.server(hosts=["a.example.org"], kind="ECDSA")
    written = f"""
acme-email: me@example.org
state-dir: /x
tunnels:
- publish: https:a.example.org=:3000
  tls: {{certificate: {holder.cert}, private-key: {holder.key}}}
- {{publish: https:b.example.org=:3000, tls: auto}}
- {{publish: https:c.example.org=:3000, tls: passthrough}}
- https:d.example.org=:3000
"""
    assert ends("--config", config(written)) == [
        CertificateFiles(holder.cert, holder.key),
        "auto",
        "passthrough",
        "auto",
    ]


def test_files_for_all_names_below_one(config: Write, authority: Authority) -> None:
    holder = authority.server(hosts=["*.dev.example.org"], kind="ECDSA")
    files = f"{{certificate: {holder.cert}, private-key: {holder.key}}}"
    written = f"tunnels:\n- publish: https:*.dev.example.org=:3000\n  tls: {files}\n"
    assert ends("--config", config(written)) == [CertificateFiles(holder.cert, holder.key)]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "{publish: 'https:*.a.org=:1', tls: auto}",
            "a CA gives certificates for *. names only to whoever changes the ",
        ),
        (
            "{publish: 'https:a.org=:1', tls: automatic}",
            "entry 1: key 'tls': 'automatic' is not who ends TLS; write auto",
        ),
        (
            "{publish: 'https:a.org=:1', tls: true}",
            "is not who ends TLS; write auto, passthrough, or {certificate: FILE",
        ),
        ("{publish: 'https:a.org=:1', tls: {certificate: x}}", "is not a certificate and its key; write auto, passthr"),
        ("{publish: 'https:a.org=:1', tls: {certificate: [1], private-key: x}}", "key 'tls': "),
        (
            "{publish: 'http:a.org=:1', tls: auto}",
            "key 'tls': is for an entry with 'publish: https:NAME=LOCAL'; leave it",
        ),
        ("{publish: 'tcp:80=:1', tls: auto}", "key 'tls': is for an entry with 'publish: https:NAME=LOCAL'; leave"),
        ("{local: 80, remote_port: 80, tls: auto}", "key 'tls': is for an entry with"),
        (
            "{publish: 'https:a.org=:1', tls: {certificate: /x.pem, private-key: /x.pem}}",
            "/x.pem cannot be read: No such",
        ),
    ],
)
def test_mistakes(entry: str, message: str, config: Write) -> None:
    assert message in error("--config", config(f"acme-email: a@b\ntunnels:\n- {entry}\n"))


def test_auto_needs_an_address(config: Write) -> None:
    written = config("tunnels:\n- {publish: 'https:a.org=:1', tls: auto}\n")
    assert error("--config", written).endswith(
        "https:a.org with 'tls: auto' needs --acme-email; write for example --acme-email me@example.org"
    )


def test_mistakes_in_options() -> None:
    assert "flag --acme-email: 'me' is not an e-mail address" in error(APP, "--acme-email=me")
    assert "flag --acme-server: 'le' is not the URL of a CA's directory" in error(APP, EMAIL, "--acme-server=le")
    assert "/nowhere.pem cannot be read" in error(APP, EMAIL, "--acme-ca=/nowhere.pem")
    assert "flag --acme-challenge: 'dns-01' is not one of tls-alpn-01, http-01" in error(
        APP, EMAIL, "--acme-challenge=dns-01"
    )


def test_the_place_of_challenges_is_taken() -> None:
    own = "--publish=http:app.example.org/.well-known/acme-challenge=:3000"
    assert error(APP, EMAIL, own, "--acme-challenge=http-01").endswith(
        "http:app.example.org/.well-known/acme-challenge is where the client answers the CA; leave it out, or give "
        "--acme-challenge tls-alpn-01"
    )
    assert len(parse(APP, EMAIL, own).tunnels) == 2
    other = own.replace("http:app", "http:www")
    assert len(parse(APP, EMAIL, other, "--acme-challenge=http-01").tunnels) == 2
