"""TLS of clients that are no friends: other certificates, too many of them, new keys again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

from rtunnel.access.identities import ephemeral_identity
from rtunnel.rtc.sealed.end import LINGER, TIMEOUT
from rtunnel.rtc.sealed.session import MOST
from rtunnel.tls import openssl
from rtunnel.tls.policy import make_context
from tests.rtc.sealed.parts import Pair, Says
from tests.tls.key_updates import Hand

Make = Callable[..., Pair]


class Client:
    """A client that has nothing of ours but what its context has.

    :ivar connection: its TLS.
    """

    def __init__(self, pair: Pair, context: SSL.Context) -> None:
        self.pair = pair
        engine = pair.client.end.session._engine
        self.connection = engine.connection = SSL.Connection(context, None)
        self.connection.set_connect_state()

    def connect(self) -> None:
        self.pair.connect()


def accepts_all(_connection: object, _certificate: object, _error: int, _depth: int, _ok: int) -> bool:
    return True


def context() -> SSL.Context:
    made = make_context(allow_classical=True)
    made.set_verify(SSL.VERIFY_PEER, accepts_all)
    return made


def classical() -> tuple[x509.Certificate, crypto.PKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "classical")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return builder.sign(key, hashes.SHA256()), crypto.load_privatekey(crypto.FILETYPE_PEM, pem)


@pytest.fixture
def trust() -> Iterator[Says]:
    """Trust that was never asked."""
    says = Says()
    yield says
    assert says.asked == []


def is_refused(pair: Pair, why: str) -> None:
    pair.connect()
    pair.wait(TIMEOUT)
    pair.wait(LINGER)
    assert pair.host.why.startswith(f"TLS with the client failed: {why}"), pair.host.why
    assert pair.host.news == ["failed"] or pair.host.news == ["failed", "given up"]
    assert pair.client.why


def test_a_classical_certificate(make_pair: Make, trust: Says) -> None:
    pair = make_pair(trust)
    made = context()
    certificate, key = classical()
    made.use_certificate(certificate)
    openssl.use_private_key(made, key)
    Client(pair, made)
    is_refused(pair, "the client ")


def test_no_certificate(make_pair: Make, trust: Says) -> None:
    pair = make_pair(trust)
    Client(pair, context())
    is_refused(pair, "the client has no certificate")


def test_somebody_elses_certificate(make_pair: Make) -> None:
    """OpenSSL does not even take a key that is another one."""
    one, other = ephemeral_identity(), ephemeral_identity()
    made = context()
    made.use_certificate(one.certificate)
    with pytest.raises(SSL.Error):
        openssl.use_private_key(made, other.key)


def test_a_classical_key_exchange(make_pair: Make, trust: Says) -> None:
    pair = make_pair(trust)
    made = SSL.Context(SSL.TLS_METHOD)
    identity = ephemeral_identity()
    made.use_certificate(identity.certificate)
    openssl.use_private_key(made, identity.key)
    openssl.set_groups(made, ["X25519", "P-256"])
    made.set_verify(SSL.VERIFY_PEER, accepts_all)
    Client(pair, made)
    is_refused(pair, "the client is refused: it offers no post-quantum key exchange")


def test_tls_1_2(make_pair: Make, trust: Says) -> None:
    pair = make_pair(trust)
    made = SSL.Context(SSL.TLS_METHOD)
    made.set_max_proto_version(SSL.TLS1_2_VERSION)
    made.set_verify(SSL.VERIFY_PEER, accepts_all)
    Client(pair, made)
    is_refused(pair, "the client is refused: the other end speaks no TLS 1.3")


def test_more_certificates_than_anybody_needs(make_pair: Make, trust: Says) -> None:
    pair = make_pair(trust)
    made = context()
    identity = ephemeral_identity()
    made.use_certificate(identity.certificate)
    openssl.use_private_key(made, identity.key)
    for _ in range(30):
        made.add_extra_chain_cert(identity.certificate)
    Client(pair, made)
    is_refused(pair, "the client is refused: ")


def test_new_keys_again_and_again(make_pair: Make) -> None:
    pair = make_pair()
    identity = pair.client.sealing.identity
    made = context()
    made.use_certificate(identity.certificate)
    openssl.use_private_key(made, identity.key)
    hand = Hand(made)
    Client(pair, made)
    pair.connect()
    assert pair.host.news == ["ready", "accepted"]
    hand.data(b"in place of the bind that was sent")
    channel = pair.client.end.session._channel
    assert channel is not None
    sent = 0
    while not pair.host.end.why and sent < MOST:
        data = b"".join(hand.update() for _ in range(50))
        channel.send(data)
        sent += len(data)
        pair.settle()
    why = pair.host.end.why
    assert "it asks for new keys again and again" in why or f"more than {MOST} bytes on the control channel" in why
    pair.wait(LINGER)
