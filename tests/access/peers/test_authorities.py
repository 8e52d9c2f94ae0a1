"""CAs that vouch for identities: chains, revocation, and files that change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from rtunnel.access.peers.authorities import Authorities
from rtunnel.errors import ConfigError
from rtunnel.pki.certificates import Kind
from tests.tls.parts import DAY, Authority, Holder

CLIENT = Kind.CLIENT


@dataclass
class Chain:
    """A root, and a CA below it, in directories of their own."""

    root: Authority
    mid: Authority

    def trusted(self, *authorities: Authority) -> Authorities:
        """What an end has whose file has these CAs."""
        self.root.cert.write_bytes(b"".join(_pem(each) for each in authorities))
        return Authorities(self.root.cert)


def _pem(holder: Holder) -> bytes:
    holder.write()
    return holder.cert.read_bytes()


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    root = Authority(tmp_path / "root", "Root")
    return Chain(root, Authority(tmp_path / "mid", "Mid", issuer=root))


def why_not(trusted: Authorities, holder: Holder, *others: Holder) -> str:
    return trusted.why_not(holder.certificate, [each.certificate for each in others], CLIENT)


def test_what_is_shown_beside_a_chain_is_not_kept(chain: Chain) -> None:
    laptop, other = chain.mid.client(), chain.mid.client()
    trusted = chain.trusted(chain.root, chain.mid)
    assert why_not(trusted, laptop, other) == ""
    [(known_as, found)] = trusted._known.items()
    assert len(known_as) == 2 * 32
    assert other.certificate not in found


def test_chains(chain: Chain) -> None:
    laptop = chain.mid.client()
    both = chain.trusted(chain.root, chain.mid)
    assert why_not(both, laptop) == why_not(both, laptop, chain.mid) == ""
    root = chain.trusted(chain.root)
    assert why_not(root, laptop, chain.mid) == ""
    assert why_not(root, laptop) == (
        "the certificate of 'laptop' is not from a CA of --peer-ca; its issuer, CN=Mid, is missing there"
    )
    # A part of the organisation.
    mid = chain.trusted(chain.mid)
    assert why_not(mid, laptop) == ""
    assert why_not(mid, chain.root.client("other")).startswith("the certificate of 'other' is not from a CA")


def test_who_is_no_ca_vouches_for_nobody(chain: Chain, tmp_path: Path) -> None:
    """A client signs a certificate for a host's ID with its own key."""
    laptop = chain.root.client()
    forger = Authority(tmp_path / "forger", "laptop")
    forger.certificate, forger.private_key = laptop.certificate, laptop.private_key
    forged = forger.client("myhost")
    assert "has issued another, but is not a CA's" in why_not(chain.trusted(chain.root), forged, laptop)


def test_what_the_peer_shows_is_no_root(chain: Chain, tmp_path: Path) -> None:
    theirs = Authority(tmp_path / "theirs", "Theirs")
    assert "is not from a CA of --peer-ca" in why_not(chain.trusted(chain.root), theirs.client(), theirs)


def test_a_changed_certificate(chain: Chain) -> None:
    laptop = chain.root.client().certificate
    der = bytearray(laptop.public_bytes(Encoding.DER))
    der[-1] ^= 1
    assert chain.trusted(chain.root).why_not(x509.load_der_x509_certificate(bytes(der)), (), CLIENT)


def test_revoked(chain: Chain) -> None:
    laptop, phone = chain.mid.client(), chain.mid.client("phone")
    trusted = chain.trusted(chain.root, chain.mid)
    assert why_not(trusted, laptop) == ""
    chain.mid.revoke(laptop)
    (chain.mid.directory / "ca.crl").replace(chain.root.directory / "ca.crl")
    assert trusted.refresh()
    assert why_not(trusted, laptop) == "the certificate of 'laptop' is revoked"
    assert why_not(trusted, phone) == ""
    assert trusted.is_revoked(laptop.certificate)
    chain.root.revoke(chain.mid)
    assert trusted.refresh()
    assert why_not(trusted, phone) == "the certificate of 'Mid' is revoked"


def test_a_ca_that_is_gone(chain: Chain) -> None:
    """What was verified before is verified anew."""
    laptop = chain.mid.client()
    trusted = chain.trusted(chain.root, chain.mid)
    assert why_not(trusted, laptop) == ""
    other = Authority(chain.mid.directory / "new", "New")
    other.cert.replace(chain.root.cert)
    assert trusted.refresh()
    assert "is not from a CA" in why_not(trusted, laptop)


@pytest.mark.parametrize(
    ("begin", "end", "message"),
    [(-10 * DAY, -5 * DAY, "expired on"), (5 * DAY, 10 * DAY, "is not valid before")],
)
def test_dates(chain: Chain, begin: timedelta, end: timedelta, message: str) -> None:
    assert message in why_not(chain.trusted(chain.root), chain.root.client(begin=begin, end=end))


def test_classical_certificates(chain: Chain) -> None:
    shown = chain.root.client(kind="ECDSA")
    assert "has a key of ECDSA, which a quantum computer can forge" in why_not(chain.trusted(chain.root), shown)


def test_roles(chain: Chain) -> None:
    trusted = chain.trusted(chain.root)
    server = chain.root.server().certificate
    assert trusted.why_not(server, (), CLIENT) == (
        "the certificate of 'server' is not for a client: its extended key usage does not say so"
    )
    assert trusted.why_not(server, (), Kind.HOST) == ""
    assert "is not for a host" in trusted.why_not(chain.root.client().certificate, (), Kind.HOST)


def test_mistakes(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no cannot be read: .*; name the file with your CA's certificate"):
        Authorities(tmp_path / "no")
    (tmp_path / "text").write_text("x")
    with pytest.raises(ConfigError, match="text is not a certificate in PEM"):
        Authorities(tmp_path / "text")
    chain.mid.revoke(chain.mid.client())
    (chain.mid.directory / "ca.crl").replace(chain.root.directory / "ca.crl")
    with pytest.raises(ConfigError, match="is not signed by a CA of --peer-ca, so it revokes nothing"):
        chain.trusted(chain.root)
