"""An organisation's CA, which vouches for identities instead of lists of fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import crypto

from rtunnel.errors import ConfigError
from rtunnel.pki.certificates import Kind, classical_problem, is_post_quantum, kind_of, may_be
from rtunnel.tls.credentials import read_certificates, read_revocation_lists
from rtunnel.tls.explanations import explain_certificate, openssl_reason
from rtunnel.tls.identity import show_end, show_subject
from rtunnel.tls.policy import MAX_DEPTH
from rtunnel.upkeep.watched_files import WatchedFiles

OPTION = "--peer-ca"
#: Most chains whose signatures are remembered.
_MOST_KNOWN = 1024

Chain = tuple[x509.Certificate, ...]


@dataclass(frozen=True)
class CaFiles:
    """The content of the files.

    :ivar revoked: serial numbers of revoked certificates, each with its issuer.
    """

    authorities: Chain
    revoked: frozenset[tuple[int, x509.Name]]
    store: crypto.X509Store = field(compare=False, repr=False)


class Authorities(WatchedFiles[CaFiles]):
    """The CAs in a file, and the revocation list ``ca.crl`` beside it, which need not exist. Both may change.

    :raises ConfigError: they cannot be used; the message names the file and the fix.
    """

    def __init__(self, path: Path) -> None:
        crl = path.with_name("ca.crl")
        # What peers have shown, each with the verified chain: a signature costs 0.2 ms, and peers are judged often.
        self._known: dict[bytes, Chain] = {}
        super().__init__((path, crl), lambda: _load(path, crl))

    def refresh(self) -> bool:
        """See :class:`WatchedFiles`."""
        has_changed = super().refresh()
        if has_changed:
            self._known.clear()
        return has_changed

    def why_not(self, certificate: x509.Certificate, others: Sequence[x509.Certificate], kind: Kind) -> str:
        """Return why these CAs do not vouch for a certificate; empty if they do.

        :param others: further certificates that its holder has shown, which nobody need trust.
        :param kind: the role that it must be for.
        """
        shown = (certificate, *others[:MAX_DEPTH])
        # Nobody has looked at what is shown beside the chain, which may be large, and another one each time.
        known_as = b"".join(each.fingerprint(SHA256()) for each in shown)
        try:
            chain = self._known.get(known_as)
            if chain is None:
                chain = self._verified(shown)
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[known_as] = chain
            # Servers of the reverse tunnel connect to each other, and nowhere else.
            is_servers = kind is Kind.CLIENT and kind_of(certificate) is Kind.SERVER
            if is_servers or not may_be(certificate, kind):
                return f"{show_subject(certificate)} is not for a {kind}: its extended key usage does not say so"
        except _NotVouchedFor as error:
            return str(error)
        except ValueError as error:
            return f"a certificate cannot be read: {error}"
        now = datetime.now(UTC)
        for each in chain:
            if self.is_revoked(each):
                return f"{show_subject(each)} is revoked"
            if now > each.not_valid_after_utc:
                return f"{show_subject(each)} expired on {show_end(each)}"
        return ""

    def is_revoked(self, certificate: x509.Certificate) -> bool:
        """Return whether the issuer of *certificate* has revoked it."""
        return (certificate.serial_number, certificate.issuer) in self.now.revoked

    def _verified(self, shown: Chain) -> Chain:
        """Return the chain from a certificate to a CA of the file.

        :raises _NotVouchedFor: there is none.
        """
        own, *others = (crypto.X509.from_cryptography(each) for each in shown)
        try:
            found = crypto.X509StoreContext(self.now.store, own, others).get_verified_chain()
        except crypto.X509StoreContextError as error:
            certificate = error.certificate.to_cryptography()
            why = explain_certificate(certificate, error.errors[0], f"a CA of {OPTION}")
            raise _NotVouchedFor(why) from None
        chain = tuple(each.to_cryptography() for each in found)
        for each in chain:
            if not is_post_quantum(each):
                raise _NotVouchedFor(f"{show_subject(each)} {classical_problem(each)}")
        return chain


class _NotVouchedFor(Exception):
    """No CA of the file vouches for a certificate. The message says why."""


def _load(path: Path, crl: Path) -> CaFiles:
    authorities = tuple(read_certificates(path, f"name the file with your CA's certificate, with {OPTION}"))
    if not any(is_post_quantum(ca) for ca in authorities):
        raise ConfigError(f"{path} {classical_problem(authorities[0])}; use a CA with a key of ML-DSA")
    store = crypto.X509Store()
    try:
        for ca in authorities:
            store.add_cert(crypto.X509.from_cryptography(ca))
    except crypto.Error as error:
        raise ConfigError(f"{path} holds a CA that cannot be used: {openssl_reason(error)}") from None
    names = {ca.subject for ca in authorities}
    if any(ca.issuer not in names for ca in authorities):
        # An intermediate CA whose root is missing may be the end of a chain.
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    revoked = {
        (entry.serial_number, each.issuer) for each in read_revocation_lists(crl, authorities, OPTION) for entry in each
    }
    return CaFiles(authorities, frozenset(revoked), store)
