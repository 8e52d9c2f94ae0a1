"""Names of servers and clients, and the default directory."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, strategies as st
from OpenSSL import crypto
from service_identity.pyopenssl import extract_patterns, verify_hostname, verify_ip_address

from rtunnel.errors import PkiError
from rtunnel.pki import names
from rtunnel.pki.authority import issue, make_ca
from rtunnel.pki.certificates import Algorithm, Kind, common_name, hosts_of
from rtunnel.pki.locations import default_pki_dir
from rtunnel.pki.store import Store

LABEL = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?", fullmatch=True)
ADDRESS = st.ip_addresses().map(str)
CA = make_ca(algorithm=Algorithm.ED25519)


def accepted(check: Callable[[str], str], text: str) -> str | None:
    """Return what a check makes of a text; None if it complains, in one line that is safe to print."""
    try:
        return check(text)
    except PkiError as error:
        complaint = str(error)
    assert complaint.isprintable()
    return None


@given(st.text(max_size=70))
def test_a_client_name_is_one_file_name(text: str) -> None:
    name = accepted(names.client_name, text)
    if name is None:
        return
    pair = Store(Path("/pki")).pair(name)
    for path in (pair.certificate, pair.key):
        assert path.parent == Path("/pki/clients")
        assert path.name == f"{name}{path.suffix}"
        assert not path.name.startswith((".", "-"))
    assert common_name(issue(CA, Kind.CLIENT, name).certificate) == name


@pytest.mark.parametrize("name", ["laptop", "Laptop-2", "alice@example.org", "a.b_c+d", "7", "x" * 64])
def test_client_names(name: str) -> None:
    assert names.client_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "-o", ".hidden", "a b", "a\nb", "a\0"),
        *("laptöp", "x" * 65, "ca", "server"),
    ],
)
def test_no_client_names(name: str) -> None:
    with pytest.raises(PkiError):
        names.client_name(name)


@given(st.one_of(ADDRESS, st.lists(LABEL, min_size=1, max_size=5).map(".".join), st.text(max_size=80)))
def test_a_host_is_found_again_in_a_certificate(text: str) -> None:
    host = accepted(names.host, text)
    if host is None:
        return
    assert names.host(host) == host
    certificate = issue(CA, Kind.SERVER, "x", hosts=[host]).certificate
    assert hosts_of(certificate) == [host]
    assert x509.load_der_x509_certificate(certificate.public_bytes(Encoding.DER)) == certificate


@given(st.one_of(ADDRESS, st.lists(LABEL, min_size=2, max_size=5).map(".".join)))
def test_the_client_finds_the_server_by_its_name(text: str) -> None:
    host = accepted(names.host, text)
    if host is None:
        return
    certificate = crypto.X509.from_cryptography(issue(CA, Kind.SERVER, "x", hosts=[host]).certificate)
    connection = StandIn(certificate)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        verify_hostname(connection, text)  # type: ignore[arg-type]
    else:
        verify_ip_address(connection, text)  # type: ignore[arg-type]
    assert len(extract_patterns(certificate)) == 1


class StandIn:
    """The part of a connection that service-identity looks at."""

    def __init__(self, certificate: crypto.X509) -> None:
        self._certificate = certificate

    def get_peer_certificate(self) -> crypto.X509:
        return self._certificate


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Tunnel.Example.ORG", "tunnel.example.org"),
        ("tunnel.example.org.", "tunnel.example.org"),
        ("localhost", "localhost"),
        ("my_container", "my_container"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("[::1]", "::1"),
        (" tunnel.example.org ", "tunnel.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("STRASSE.straße.example", "strasse.xn--strae-oqa.example"),
    ],
)
def test_hosts(text: str, host: str) -> None:
    assert names.host(text) == host


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "an empty name"),
        ("https://tunnel.example.org/", "is a URL"),
        ("tunnel.example.org:7000", "has a port; write only tunnel.example.org"),
        ("[::1]:7000", "has a port; write only ::1"),
        ("*.example.org", "is a pattern"),
        ("fe80::1%eth0", "has a zone, which no certificate can hold; write fe80::1"),
        ("300.1.1.1", "neither"),
        ("1.2.3", "neither"),
        ("a..b", "neither"),
        ("-a.example", "neither"),
        ("a b", "neither"),
        ("x" * 64, "neither"),
        ("x." * 130 + "x", "neither"),
        ("-ü.example", "neither"),
        ("\x1b[31m", "neither"),
    ],
)
def test_no_hosts(text: str, complaint: str) -> None:
    with pytest.raises(PkiError) as raised:
        names.host(text)
    assert complaint in str(raised.value)
    assert str(raised.value).isprintable()


def test_lists_of_hosts() -> None:
    assert names.hosts(["b.example,a.example", "b.example 192.0.2.1\n"]) == ["b.example", "a.example", "192.0.2.1"]
    for nothing in ([], [""], [" "]):
        with pytest.raises(PkiError):
            names.hosts(nothing)


@pytest.mark.parametrize(
    ("environ", "root", "directory"),
    [
        ({"RTUNNEL_PKI_DIR": "/root/pq-certs", "HOME": "/home/a"}, True, "/root/pq-certs"),
        ({"RTUNNEL_PKI_DIR": "/root/pq-certs", "HOME": "/home/a"}, False, "/root/pq-certs"),
        ({"RTUNNEL_PKI_DIR": "", "HOME": "/root"}, True, "/etc/rtunnel/pki"),
        ({"HOME": "/root", "XDG_CONFIG_HOME": "/x"}, True, "/etc/rtunnel/pki"),
        ({"HOME": "/home/a"}, False, "/home/a/.config/rtunnel/pki"),
        ({"HOME": "/home/a", "XDG_CONFIG_HOME": "/home/a/etc"}, False, "/home/a/etc/rtunnel/pki"),
        ({"HOME": "/home/a", "XDG_CONFIG_HOME": "etc"}, False, "/home/a/.config/rtunnel/pki"),
    ],
)
def test_default_directory(environ: dict[str, str], root: bool, directory: str) -> None:
    assert default_pki_dir(environ, root=root) == Path(directory)


def test_default_directory_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_pki_dir({"RTUNNEL_PKI_DIR": "here"}) == tmp_path / "here"
    assert default_pki_dir({}, root=False).is_absolute()
