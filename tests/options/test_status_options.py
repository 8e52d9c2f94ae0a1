"""The options of the status port: who may read it, and the files of its TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.python import usage

from rtunnel.options.plugins import rtc_client, rtc_host, rtc_signal, rtunnel_client, rtunnel_server
from tests.options.conftest import Write
from tests.tls.parts import Authority

pytestmark = pytest.mark.usefixtures("nothing_from_outside")

MINIMUM: dict[type[Any], tuple[str, ...]] = {
    rtunnel_server.Options: (),
    rtunnel_client.Options: ("--server=h:7000", "--local=:80"),
    rtc_signal.Options: (),
    rtc_host.Options: ("--id=h", "--remote=:80"),
    rtc_client.Options: ("--id=h", "--local=:9"),
}
LISTEN = "--status-listen=:7070"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), kind="ECDSA")


def parse(*arguments: str, of: type[Any] = rtunnel_server.Options) -> Any:
    options = of()
    options.parseOptions([*MINIMUM[of], *arguments])
    return options


def why(*arguments: str) -> str:
    with pytest.raises(usage.UsageError) as caught:
        parse(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("of", MINIMUM)
def test_with_client_certificates_it_may_be_open_to_others(authority: Authority, of: type[Any], config: Write) -> None:
    holder = authority.server(kind="ECDSA")
    files = [f"--status-tls-cert={holder.cert}", f"--status-tls-key={holder.key}", f"--status-tls-ca={authority.cert}"]
    options = parse(LISTEN, *files, of=of)
    assert options["status-tls-ca"] == authority.cert
    lines = ["status_listen: :7070", f"status_tls_cert: {holder.cert}", f"status_tls_key: {holder.key}"]
    path = config("\n".join([*lines, f"status_tls_ca: {authority.cert}"]))
    assert parse("--config", path, of=of)["status-tls-cert"] == holder.cert


def test_tls_alone_lets_everybody_read(authority: Authority) -> None:
    holder = authority.server(kind="ECDSA")
    files = (f"--status-tls-cert={holder.cert}", f"--status-tls-key={holder.key}")
    assert "add --status-token, or --status-tls-ca for client certificates" in why(LISTEN, *files)
    parse(LISTEN, *files, "--status-token=s3cret")
    parse("--status-listen=127.0.0.1:7070", *files)


def test_mistakes(authority: Authority, tmp_path: Path) -> None:
    holder, other = authority.server(kind="ECDSA"), authority.server("other", kind="ECDSA")
    cert, key, ca = f"--status-tls-cert={holder.cert}", f"--status-tls-key={holder.key}", "--status-tls-ca="
    assert why(cert).endswith("has no effect without a status port; add --status-listen 127.0.0.1:7070")
    assert why(LISTEN, cert) == "flag --status-tls-cert: also needs --status-tls-key"
    assert why(LISTEN, key) == "flag --status-tls-key: also needs --status-tls-cert"
    assert why(LISTEN, f"{ca}{authority.cert}") == "flag --status-tls-ca: also needs --status-tls-cert"
    listen = "--status-listen=127.0.0.1:7070"
    assert why(listen, cert, f"--status-tls-key={other.key}").startswith(f"{other.key} is not the key of {holder.cert}")
    assert why(listen, "--status-tls-cert=/nonexistent", key).endswith(
        "give the server's certificate with --status-tls-cert"
    )
    assert why(listen, cert, f"--status-tls-key={holder.cert}").endswith(
        "give the certificate's key with --status-tls-key"
    )
    assert why(listen, cert, key, f"{ca}{holder.key}").endswith("give the CA of the clients with --status-tls-ca")
    open_ = tmp_path / "open.crt"
    open_.write_bytes(authority.cert.read_bytes())
    open_.chmod(0o666)
    assert why(listen, cert, key, f"{ca}{open_}").startswith(f"every user of this machine may change {open_}")
