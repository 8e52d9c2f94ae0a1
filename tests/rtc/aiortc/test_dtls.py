"""Peers whose DTLS is not that of our own ends."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
import pytest_twisted
from aiortc.rtcdtlstransport import RTCCertificate, generate_certificate
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL

from rtunnel.rtc.aiortc import dtls
from tests.reverse.net import until
from tests.rtc.aiortc.peer_connection_parts import End, Ends, ends

__all__ = ["ends"]

GCM = b"ECDHE-ECDSA-AES128-GCM-SHA256"


class ForeignCertificate(RTCCertificate):
    """What a peer of another make brings: a key, and what it may negotiate.

    :ivar suites: in the form of OpenSSL.
    :ivar srtp: whether it also speaks of media.
    """

    suites: bytes
    srtp: bool

    def _create_ssl_context(self, srtp_profiles: list[Any]) -> SSL.Context:
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        context.use_certificate(self._cert)
        context.use_privatekey(self._key)
        context.set_cipher_list(self.suites)
        if self.srtp:
            context.set_tlsext_use_srtp(b"SRTP_AES128_CM_SHA1_80")
        return context


def foreign(ends: Ends, monkeypatch: pytest.MonkeyPatch, key: Any, suites: bytes, *, srtp: bool = True) -> End:
    """An end with such a certificate."""
    certificate = ForeignCertificate(key, generate_certificate(key))
    certificate.suites, certificate.srtp = suites, srtp
    with monkeypatch.context() as patch:
        patch.setattr(dtls.Certificate, "generateCertificate", lambda: certificate)
        return ends.make()


async def connect(one: End, two: End) -> None:
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    await Ends.connected(one, two)


@pytest.mark.parametrize(
    "suite",
    [
        "AES128-GCM-SHA256",
        "CHACHA20-POLY1305",
        "AES256-GCM-SHA384",
        "AES128-CCM",
        "AES256-CCM",
        "AES256-SHA",
    ],
)
@pytest_twisted.ensureDeferred
async def test_peers_with_one_cipher_suite(ends: Ends, monkeypatch: pytest.MonkeyPatch, suite: str) -> None:
    key, suites = ec.generate_private_key(ec.SECP256R1()), f"ECDHE-ECDSA-{suite}".encode()
    # The one that answers is the client.
    await connect(foreign(ends, monkeypatch, key, suites), ends.make())
    await connect(ends.make(), foreign(ends, monkeypatch, key, suites))


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA"])
@pytest_twisted.ensureDeferred
async def test_peers_with_an_rsa_certificate(ends: Ends, monkeypatch: pytest.MonkeyPatch, suite: str) -> None:
    key, suites = rsa.generate_private_key(65537, 2048), f"ECDHE-RSA-{suite}".encode()
    await connect(foreign(ends, monkeypatch, key, suites), ends.make())
    # As a client it meets our certificate, which is not RSA.
    await connect(ends.make(), foreign(ends, monkeypatch, key, suites + b":" + GCM))


@pytest_twisted.ensureDeferred
async def test_a_peer_that_knows_no_media(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    await connect(foreign(ends, monkeypatch, key, GCM, srtp=False), ends.make())
    await connect(ends.make(), foreign(ends, monkeypatch, key, GCM, srtp=False))


def fingerprint(certificate: dtls.Certificate) -> str:
    return certificate.getFingerprints()[0].value


def test_connections_of_a_host_share_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = dtls.SharedCertificate()
    one, two = shared.for_connection(), shared.for_connection()
    assert fingerprint(one) == fingerprint(two)
    assert one.failures is not two.failures
    # It is good for 30 days.
    monkeypatch.setattr(dtls.SharedCertificate, "RENEW", timedelta(days=29, hours=23))
    assert fingerprint(shared.for_connection()) == fingerprint(one)
    monkeypatch.setattr(dtls.SharedCertificate, "RENEW", timedelta(days=31))
    assert fingerprint(shared.for_connection()) != fingerprint(one)
    assert fingerprint(dtls.SharedCertificate().for_connection()) != fingerprint(one)


@pytest_twisted.ensureDeferred
async def test_an_end_that_is_given_no_certificate_makes_its_own(ends: Ends) -> None:
    one, two = ends.make(), ends.make()
    assert fingerprint(one.connection._certificate) != fingerprint(two.connection._certificate)


def send_records(end: End, *records: bytes) -> None:
    """Send all of them in one packet."""
    connection = end.connection._dtls._ssl
    assert connection is not None
    for record in records:
        connection.send(record)
    end.connection._tasks.start(end.connection._ice.send(connection.bio_read(60_000)))


@pytest_twisted.ensureDeferred
async def test_all_records_of_a_packet_are_read(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiortc would read one and keep the others in memory for ever, as many as a peer likes to send."""
    one, two = await ends.pair()
    seen: list[bytes] = []

    path = two.connection._path
    monkeypatch.setattr(path, "_received", lambda some: seen.extend(x for x in some if x.startswith(b"record")))
    records = [b"record %d" % number for number in range(30)]
    for _ in range(3):
        send_records(one, *records)
    await until(lambda: len(seen) >= 90, "all records")
    assert seen == 3 * records


@pytest_twisted.ensureDeferred
async def test_a_goodbye_behind_other_records(ends: Ends) -> None:
    one, two = await ends.pair()
    connection = one.connection._dtls._ssl
    assert connection is not None
    connection.send(b"x")
    connection.shutdown()
    send_records(one)
    assert await two.ends() == "the peer closed the connection"


@pytest_twisted.ensureDeferred
async def test_there_is_no_second_handshake(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    # The one that answers is the client.
    one = foreign(ends, monkeypatch, ec.generate_private_key(ec.SECP256R1()), GCM)
    two = ends.make()
    await connect(one, two)
    server, client = one.connection._dtls._ssl, two.connection._dtls._ssl
    assert server is not None
    assert client is not None
    server.renegotiate()
    with suppress(SSL.WantReadError):
        server.do_handshake()
    said: list[tuple[bytes, bytes]] = []
    read = client.bio_read

    def note(most: int) -> bytes:
        said.append((read(most), client.get_state_string()))
        return said[-1][0]

    monkeypatch.setattr(client, "bio_read", note)
    send_records(one)
    await until(lambda: said, "an answer")
    # An alert, and not the beginning of a handshake. Whether it goes on is the server's affair.
    answer, state = said[0]
    assert answer[0] == 21
    assert state == b"SSL negotiation finished successfully"


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_cannot_be_read(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL takes some that the library for certificates refuses. There is one reason, and no traceback."""

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("error parsing asn1 value")

    one, two = ends.make(), ends.make()
    one.connection.offer()
    two.connection.take_offer(await one.description())
    monkeypatch.setattr(SSL.Connection, "get_peer_certificate", refuse)
    one.connection.take_answer(await two.description())
    why = "its certificate is not the one that its description promises"
    assert await one.ends() == f"the DTLS handshake failed: {why}"
