"""Others accept what the CA makes, and only for its purpose.

The tests ask the verifier of ``cryptography`` (for the algorithms of the web), OpenSSL's, and OpenSSL's handshake.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification
from OpenSSL import SSL, crypto

from rtunnel.pki.authority import CLOCK_SKEW, issue, make_ca, make_crl, renew_ca
from rtunnel.pki.certificates import (
    Algorithm,
    Identity,
    Kind,
    algorithm_of,
    common_name,
    crl_number,
    expires_soon,
    fingerprint,
    fits,
    hosts_of,
    is_from,
    is_post_quantum,
    kind_of,
    may_be,
    revocations,
    signed_by,
)

NOW = datetime.now(UTC).replace(microsecond=0)
WEB = [one for one in Algorithm if one is not Algorithm.ED25519]
"""The algorithms that the verifier of ``cryptography`` accepts; it follows the rules of the web."""


@pytest.fixture(scope="module")
def ca() -> Identity:
    return make_ca()


def accept(
    certificate: x509.Certificate, ca: x509.Certificate, crl: x509.CertificateRevocationList | None = None
) -> None:
    """Let OpenSSL verify a certificate in strict mode; raises if it does not accept it."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(ca))
    flags = crypto.X509StoreFlags.X509_STRICT
    if crl is not None:
        store.add_crl(crl)
        flags |= crypto.X509StoreFlags.CRL_CHECK
    store.set_flags(flags)
    crypto.X509StoreContext(store, crypto.X509.from_cryptography(certificate)).verify_certificate()


def handshake(server: Identity, client: Identity, ca: Identity, directory: Path) -> SSL.Connection:
    """Do a mutual TLS 1.3 handshake; return the client's end."""
    (directory / "ca").write_bytes(ca.certificate_pem)
    ends = []
    for name, identity in (("server", server), ("client", client)):
        (directory / f"{name}.crt").write_bytes(identity.certificate_pem)
        (directory / f"{name}.key").write_bytes(identity.key_pem)
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.use_certificate_file(str(directory / f"{name}.crt"))
        context.use_privatekey_file(str(directory / f"{name}.key"))
        context.load_verify_locations(str(directory / "ca"))
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *arguments: bool(arguments[-1]))
        ends.append(SSL.Connection(context, None))
    ends[0].set_accept_state()
    ends[1].set_connect_state()
    waiting = {0, 1}
    for _ in range(20):
        for number in (1, 0):
            try:
                ends[number].do_handshake()
                waiting.discard(number)
            except SSL.WantReadError:
                pass
            try:
                ends[1 - number].bio_write(ends[number].bio_read(1 << 20))
            except SSL.WantReadError:
                pass
        if not waiting:
            return ends[1]
    raise AssertionError("no end of the handshake")


@pytest.mark.parametrize("algorithm", Algorithm)
def test_every_algorithm_shakes_hands(algorithm: Algorithm, tmp_path: Path) -> None:
    ca = make_ca(algorithm=algorithm)
    server = issue(ca, Kind.SERVER, "t.example.org", hosts=["t.example.org", "::1"])
    client = issue(ca, Kind.CLIENT, "laptop")
    for one in (ca, server, client):
        assert algorithm_of(one.certificate) is algorithm
        assert fits(one.key, one.certificate)
        accept(one.certificate, ca.certificate, make_crl(ca))
    end = handshake(server, client, ca, tmp_path)
    assert end.get_protocol_version_name() == "TLSv1.3"
    peer = end.get_peer_certificate()
    assert peer is not None
    assert fingerprint(peer.to_cryptography()) == fingerprint(server.certificate)


@pytest.mark.parametrize("algorithm", WEB)
def test_the_web_would_take_it(algorithm: Algorithm) -> None:
    ca = make_ca(algorithm=algorithm)
    server = issue(ca, Kind.SERVER, "t.example.org", hosts=["t.example.org", "192.0.2.1", "2001:db8::1"])
    builder = verification.PolicyBuilder().store(verification.Store([ca.certificate]))
    subjects: list[verification.Subject] = [
        x509.DNSName("t.example.org"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
    ]
    for subject in subjects:
        assert builder.build_server_verifier(subject).verify(server.certificate, []) == [
            server.certificate,
            ca.certificate,
        ]
    for wrong in (x509.DNSName("other.example.org"), x509.IPAddress(ipaddress.ip_address("192.0.2.2"))):
        with pytest.raises(verification.VerificationError):
            builder.build_server_verifier(wrong).verify(server.certificate, [])


def test_a_client_is_no_server_and_a_server_is_both(ca: Identity, tmp_path: Path) -> None:
    server = issue(ca, Kind.SERVER, "t.example.org", hosts=["t.example.org"])
    client = issue(ca, Kind.CLIENT, "laptop")
    with pytest.raises(SSL.Error):
        handshake(client, client, ca, tmp_path)
    handshake(server, server, ca, tmp_path)


def test_what_is_issued_cannot_issue(ca: Identity) -> None:
    client = issue(ca, Kind.CLIENT, "laptop")
    forged = issue(Identity(client.certificate, client.key), Kind.CLIENT, "admin")
    store = crypto.X509Store()
    for one in (ca, client):
        store.add_cert(crypto.X509.from_cryptography(one.certificate))
    with pytest.raises(crypto.X509StoreContextError):
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(forged.certificate)).verify_certificate()


def test_no_ca_below_the_ca(ca: Identity) -> None:
    constraints = ca.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)


def test_extensions_of_a_server(ca: Identity) -> None:
    server = issue(ca, Kind.SERVER, "t.example.org", hosts=["t.example.org", "192.0.2.1"]).certificate
    extensions = server.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,
        x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH,
    ]
    own = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == own
    assert hosts_of(server) == ["t.example.org", "192.0.2.1"]
    assert kind_of(server) is Kind.SERVER
    assert server.version is x509.Version.v3


def test_serial_numbers_are_random(ca: Identity) -> None:
    serials = {issue(ca, Kind.CLIENT, "laptop").certificate.serial_number for _ in range(20)}
    assert len(serials) == 20
    assert min(serials) > 1 << 64


def test_two_authorities_have_two_names() -> None:
    assert make_ca().certificate.subject != make_ca().certificate.subject


def test_clocks_may_differ_a_little(ca: Identity) -> None:
    certificate = issue(ca, Kind.CLIENT, "laptop", now=NOW, days=10).certificate
    assert certificate.not_valid_before_utc == NOW - CLOCK_SKEW
    assert certificate.not_valid_after_utc == NOW + timedelta(days=10)


def test_nothing_outlives_its_ca() -> None:
    ca = make_ca(days=5, now=NOW)
    assert issue(ca, Kind.CLIENT, "laptop", days=10, now=NOW).certificate.not_valid_after_utc == NOW + timedelta(days=5)


@pytest.mark.parametrize("shift", [timedelta(days=-20), timedelta(days=20)])
def test_only_valid_in_its_time(ca: Identity, shift: timedelta) -> None:
    certificate = issue(ca, Kind.CLIENT, "laptop", days=10, now=NOW + shift).certificate
    with pytest.raises(crypto.X509StoreContextError, match=r"expired|not yet valid"):
        accept(certificate, ca.certificate)


def test_revoked(ca: Identity) -> None:
    client, other = (issue(ca, Kind.CLIENT, name).certificate for name in ("laptop", "phone"))
    crl = make_crl(ca, {client.serial_number: NOW}, number=7)
    accept(other, ca.certificate, crl)
    with pytest.raises(crypto.X509StoreContextError, match="revoked"):
        accept(client, ca.certificate, crl)
    assert revocations(crl) == {client.serial_number: NOW}
    assert crl_number(crl) == 7


def test_a_revocation_list_lives_as_long_as_the_ca(ca: Identity) -> None:
    assert make_crl(ca).next_update_utc == ca.certificate.not_valid_after_utc


def test_a_revocation_list_is_of_its_ca_only(ca: Identity) -> None:
    assert is_from(make_crl(ca), ca.certificate)
    assert not is_from(make_crl(ca), make_ca().certificate)
    assert not is_from(make_crl(make_ca("one")), make_ca("one").certificate)
    assert not is_from(make_crl(make_ca("one")), make_ca("one", algorithm=Algorithm.ECDSA_P256).certificate)


def test_a_ca_gets_more_time(ca: Identity) -> None:
    client = issue(ca, Kind.CLIENT, "laptop").certificate
    renewed = renew_ca(ca, days=7000, now=NOW)
    assert renewed.certificate.not_valid_after_utc == NOW + timedelta(days=7000)
    assert renewed.certificate.serial_number != ca.certificate.serial_number
    crl = make_crl(renewed, {}, number=2)
    for one in (ca, renewed):
        accept(client, one.certificate, crl)
        assert signed_by(client, one.certificate)
    assert [extension.oid for extension in renewed.certificate.extensions] == [
        extension.oid for extension in ca.certificate.extensions
    ]


def test_keys_and_certificates_that_do_not_belong_together(ca: Identity) -> None:
    one, other = (issue(ca, Kind.CLIENT, "laptop") for _ in range(2))
    assert not fits(one.key, other.certificate)
    assert not signed_by(one.certificate, make_ca().certificate)
    assert not signed_by(one.certificate, make_ca(algorithm=Algorithm.RSA_3072).certificate)


def test_a_classical_key_below_a_post_quantum_ca(ca: Identity) -> None:
    certificate = issue(ca, Kind.CLIENT, "laptop", algorithm=Algorithm.ECDSA_P256).certificate
    assert algorithm_of(certificate) is Algorithm.ECDSA_P256
    assert common_name(certificate) == "laptop"
    assert not is_post_quantum(certificate)
    assert is_post_quantum(issue(ca, Kind.CLIENT, "laptop", algorithm=Algorithm.ML_DSA_44).certificate)
    accept(certificate, ca.certificate)


@pytest.mark.parametrize("kind", [Kind.SERVER, Kind.CLIENT])
def test_roles(ca: Identity, kind: Kind) -> None:
    """A server is a client too: of the other servers of its cluster."""
    certificate = issue(ca, kind, "name").certificate
    assert may_be(certificate, kind)
    assert may_be(certificate, Kind.CLIENT)
    assert may_be(certificate, Kind.SERVER) == (kind is Kind.SERVER)
    assert may_be(ca.certificate, kind), "it does not say what it is for"


@pytest.mark.parametrize(("days", "soon"), [(-1, True), (0, True), (29, True), (30, False), (31, False)])
def test_expires_soon(ca: Identity, days: int, soon: bool) -> None:
    certificate = issue(ca, Kind.CLIENT, "laptop", days=100, now=NOW).certificate
    assert expires_soon(certificate, NOW + timedelta(days=100 - days)) == soon
