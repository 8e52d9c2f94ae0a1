"""For which servers a certificate is, as its alternative names say it."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from rtunnel.errors import ConfigError
from rtunnel.tls.server_names import check_server_name, why_not_for
from tests.tls.parts import Authority


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"), kind="ECDSA")


def certificate(shared: Authority, *names: str) -> x509.Certificate:
    """A certificate for these names; ``DNS:`` before one makes it a DNS name whatever it looks like."""
    return shared.server(hosts=names, kind="ECDSA").certificate


@pytest.mark.parametrize("odd", ["DNS:127.0.0.1", "DNS:192.0.2.9", "DNS:*", "DNS:*.*.example", "DNS:a*b*.example"])
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "tunnel.example.org"])
def test_names_that_are_none_do_no_harm(name: str, odd: str, shared: Authority) -> None:
    found = certificate(shared, "localhost", odd, "127.0.0.1", "*.example.org")
    assert why_not_for(found, name) is None
    assert why_not_for(found, "other.example") == (
        f"the certificate of 'server' is for localhost, {odd[4:]}, 127.0.0.1, *.example.org, not for other.example"
    )


def test_a_network_does_no_harm(shared: Authority) -> None:
    """Some CAs write their name constraints there."""
    networks = [x509.IPAddress(ip_network(text)) for text in ("10.0.0.0/8", "fd00::/8")]
    names = x509.SubjectAlternativeName([*networks, x509.DNSName("localhost")])
    before = certificate(shared, "localhost")
    key = ed25519.Ed25519PrivateKey.generate()
    built = x509.CertificateBuilder(
        before.issuer, before.subject, key.public_key(), 1, before.not_valid_before_utc, before.not_valid_after_utc
    )
    found = built.add_extension(names, critical=False).sign(key, None)
    assert why_not_for(found, "localhost") is None
    assert "not for 10.0.0.1" in (why_not_for(found, "10.0.0.1") or "")


def test_a_dns_name_is_never_an_address(shared: Authority) -> None:
    assert "not for 192.0.2.9" in (why_not_for(certificate(shared, "DNS:192.0.2.9", "localhost"), "192.0.2.9") or "")


def test_the_zone_of_an_address_is_not_in_a_certificate(shared: Authority) -> None:
    found = certificate(shared, "fe80::1")
    assert why_not_for(found, "fe80::1%eth0") is None
    assert "not for fe80::2%eth0" in (why_not_for(found, "fe80::2%eth0") or "")


@pytest.mark.parametrize(
    ("name", "ascii_form"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example."),
        ("straße.example", "xn--strae-oqa.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("tunnel.example", "tunnel.example"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_international_names(name: str, ascii_form: str, shared: Authority) -> None:
    assert check_server_name(name) == ascii_form
    if ":" not in name:
        assert why_not_for(certificate(shared, ascii_form.rstrip(".")), ascii_form) is None


@pytest.mark.parametrize("name", ["a b", "\u200b.example", "-ü", "x" * 64 + "ü.example"])
def test_no_names(name: str) -> None:
    with pytest.raises(ConfigError, match="is neither a DNS name nor an IP address"):
        check_server_name(name)


def test_of_a_directory(tmp_path: Path) -> None:
    """What `rtunnel pki init` takes is what the client looks for."""
    from rtunnel.pki import names, operations
    from rtunnel.pki.certificates import Algorithm
    from rtunnel.pki.store import Store

    for name in ("bücher.example", "straße.example", "fe80::1"):
        made = operations.init(Store(tmp_path / name), names.hosts([name]), algorithm=Algorithm.ED25519)
        assert why_not_for(made.certificate, check_server_name(name)) is None
