"""Certificates that an intermediate CA has issued: which chains are accepted, and what becomes of a revoked CA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.policy import Role, TlsSettings
from tests.tls.parts import DAY, Authority, Ends, Holder, Lines
from tests.tls.test_engine import exchange


class Chain:
    """A root, an intermediate CA below it, and the settings of both ends with certificates of the latter.

    :ivar other: an intermediate CA of another root.
    """

    def __init__(self, directory: Path) -> None:
        self.root = Authority(directory / "root", "Root")
        self.mid = Authority(directory / "mid", "Mid", issuer=self.root)
        self.other = Authority(directory / "other", "Other", issuer=Authority(directory / "far", "Far"))
        self.holders = {Role.SERVER: self.mid.server(), Role.CLIENT: self.mid.client()}
        for holder in self.holders.values():
            send_along(holder, self.mid)

    def settings(self, role: Role) -> TlsSettings:
        holder = self.holders[role]
        return TlsSettings(holder.cert, holder.key, self.root.cert)

    def trust(self, *authorities: Authority) -> None:
        """Let both ends trust these CAs."""
        self.root.cert.write_bytes(b"".join(pem_of(each) for each in authorities))

    def meet(self) -> dict[Role, TlsEngine]:
        """The two ends after a handshake."""
        server = TlsEngine(Credentials(self.settings(Role.SERVER), Role.SERVER))
        client = TlsEngine(Credentials(self.settings(Role.CLIENT), Role.CLIENT))
        client.start()
        exchange(server, client)
        return {Role.SERVER: server, Role.CLIENT: client}


def pem_of(holder: Holder) -> bytes:
    holder.write()
    return holder.cert.read_bytes()


def send_along(holder: Holder, *authorities: Authority) -> None:
    """Let an end send the certificates of these CAs after its own."""
    holder.cert.write_bytes(pem_of(holder) + b"".join(map(pem_of, authorities)))


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


TRUSTED: dict[str, Callable[[Chain], None]] = {
    "the root": lambda chain: chain.trust(chain.root),
    "both": lambda chain: chain.trust(chain.root, chain.mid),
    "both, and a CA whose root is missing": lambda chain: chain.trust(chain.mid, chain.root, chain.other),
    "the intermediate": lambda chain: chain.trust(chain.mid),
}


@pytest.mark.parametrize("trusted", TRUSTED)
@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_accepted(trusted: str, sent: bool, listed: bool, chain: Chain) -> None:
    """What one end does not send, the other may have in its file. Somebody else is revoked, or nobody."""
    if listed:
        issuer = chain.mid if trusted == "the intermediate" else chain.root
        issuer.revoke(chain.other)
        (issuer.directory / "ca.crl").replace(chain.root.directory / "ca.crl")
    TRUSTED[trusted](chain)
    if not sent:
        for holder in chain.holders.values():
            holder.write()
    ends = chain.meet()
    if sent or trusted != "the root":
        assert all(end.peer is not None for end in ends.values())
    else:
        assert ends[Role.CLIENT].failure == (
            "the server's certificate is refused: the certificate of 'server' is not from a CA of --tls-ca; its "
            "issuer, CN=Mid, is missing there"
        )


@pytest.mark.parametrize("role", Role)
def test_what_is_missing(role: Role, chain: Chain) -> None:
    """Each end names the certificate that it would need."""
    holder = chain.other.server() if role is Role.SERVER else chain.other.client()
    send_along(holder, chain.other)
    chain.holders[role] = holder
    refused = chain.meet()[role.other]
    assert refused.failure == (
        f"the {role.value}'s certificate is refused: the certificate of 'Other' is not from a CA of --tls-ca; its "
        "issuer, CN=Far, is missing there"
    )


def test_another_ca_of_that_name(chain: Chain, tmp_path: Path) -> None:
    chain.trust(Authority(tmp_path / "new", "Root"))
    assert chain.meet()[Role.CLIENT].failure.endswith(
        "the certificate of 'Mid' is not from a CA of --tls-ca; the one called CN=Root has another key"
    )


def test_peers_share_the_certificates_of_their_cas(chain: Chain) -> None:
    """A server has thousands of them."""
    first = chain.meet()[Role.SERVER].peer
    chain.holders[Role.CLIENT] = chain.mid.client("phone")
    send_along(chain.holders[Role.CLIENT], chain.mid)
    second = chain.meet()[Role.SERVER].peer
    assert first is not None
    assert second is not None
    assert first.issuers == (chain.mid.certificate, chain.root.certificate)
    assert first.issuers is second.issuers


# Revoked


@pytest.mark.parametrize("trusted", [name for name in TRUSTED if name != "the intermediate"])
@pytest.mark.parametrize("role", Role)
def test_a_revoked_ca(role: Role, trusted: str, chain: Chain) -> None:
    TRUSTED[trusted](chain)
    chain.root.revoke(chain.mid)
    (chain.root.directory / "ca.crl").rename(chain.root.directory / "list")
    ends = {}
    for each in Role:
        settings = chain.settings(each)
        if each is not role:
            # This end has the list; the other must not refuse first.
            directory = chain.root.directory / "here"
            directory.mkdir()
            (directory / "ca.crt").write_bytes(settings.ca.read_bytes())
            (chain.root.directory / "list").rename(directory / "ca.crl")
            settings = replace(settings, ca=directory / "ca.crt")
        ends[each] = TlsEngine(Credentials(settings, each))
    ends[Role.CLIENT].start()
    exchange(ends[Role.SERVER], ends[Role.CLIENT])
    assert ends[role.other].failure == (
        f"the {role.value}'s certificate is refused: the certificate of 'Mid' is revoked"
    )
    assert ends[role.other].peer is None


@pytest.mark.parametrize("role", Role)
@pytest_twisted.ensureDeferred
async def test_a_ca_is_revoked_under_a_link(role: Role, chain: Chain, ends: Ends, tmp_path: Path) -> None:
    """The end that learns of it closes the link, and neither takes another."""
    settings = {each: chain.settings(each) for each in Role}
    own = tmp_path / "own"
    own.mkdir()
    (own / "ca.crt").write_bytes(pem_of(chain.root))
    settings[role] = replace(settings[role], ca=own / "ca.crt")
    ends.start_server(settings[Role.SERVER])
    ends.start_client(settings[Role.CLIENT], reconnect_min=0.05, reconnect_max=0.05)
    await ends.lines.wait_for(r"\(laptop\) connected")
    chain.root.revoke(chain.mid)
    (chain.root.directory / "ca.crl").rename(own / "ca.crl")
    await ends.lines.wait_for("closed by us: unauthorized: the certificate of 'Mid' is revoked")
    await ends.lines.wait_for(rf"the {role.other.value}'s certificate is refused: the certificate of 'Mid' is revoked")


@pytest.mark.parametrize("of", ["ends", "CAs"])
@pytest.mark.parametrize("revoked", [True, False])
def test_a_list_of_a_part_of_the_certificates(of: str, revoked: bool, chain: Chain) -> None:
    """What it does not cover is not refused for that (RFC 5280, section 5.2.5)."""
    now = datetime.now(UTC)
    scope = x509.IssuingDistributionPoint(None, None, of == "ends", of == "CAs", None, False, False)
    builder = x509.CertificateRevocationListBuilder().issuer_name(chain.root.certificate.subject)
    builder = builder.last_update(now - DAY).next_update(now + DAY).add_extension(scope, critical=True)
    leaf = chain.holders[Role.CLIENT] = chain.root.client() if of == "ends" else chain.holders[Role.CLIENT]
    if revoked:
        gone = (leaf if of == "ends" else chain.mid).certificate.serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(gone).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    chain.root.directory.joinpath("ca.crl").write_bytes(
        builder.sign(chain.root.private_key, None).public_bytes(Encoding.PEM)
    )
    chain.trust(chain.root)
    ends = chain.meet()
    assert any("is revoked" in end.failure for end in ends.values()) is revoked
    assert all(end.peer is not None for end in ends.values()) is not revoked


# A CA without a list


def test_a_ca_without_a_list_is_named_once(chain: Chain, lines: Lines) -> None:
    """Only the root has one: what the intermediate has revoked is not known."""
    chain.root.revoke()
    server = Credentials(chain.settings(Role.SERVER), Role.SERVER)
    client = Credentials(chain.settings(Role.CLIENT), Role.CLIENT)
    for _ in range(3):
        first, second = TlsEngine(server), TlsEngine(client)
        second.start()
        exchange(first, second)
        assert first.peer is not None
    logged = lines.text
    line = f"the CA 'Mid' has no revocation list in {chain.root.directory / 'ca.crl'}"
    # Once at each end.
    assert logged.count("has no revocation list") == logged.count(line) == 2
