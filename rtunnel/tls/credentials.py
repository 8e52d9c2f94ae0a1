"""Our certificate and key, the CAs that we trust and the revocation list: read from files, and again on each change.

Each set of files that fits together is one :class:`Loaded`; new connections use the newest. A set that does not fit is
never used: at startup it is an error, later the previous set stays in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.logger import Logger, LogLevel

from rtunnel.errors import ConfigError
from rtunnel.pki import pem
from rtunnel.pki.certificates import (
    Kind,
    classical_problem,
    expires_soon,
    has_tls_signature,
    is_from,
    is_post_quantum,
    key_kind,
    may_be,
)
from rtunnel.tls.explanations import openssl_reason
from rtunnel.tls.identity import Peer, expiry_warning, show_name, show_subject
from rtunnel.tls.openssl import use_private_key
from rtunnel.tls.policy import CLASSICAL_OPTION, Role, TlsSettings, make_context
from rtunnel.trusted_files import read_trusted
from rtunnel.upkeep.watched_files import WatchedFiles

_FIXES = {
    Role.SERVER: "make one with `rtunnel pki init`, or name yours with",
    Role.CLIENT: "get one with `rtunnel pki import`, or name yours with",
}
#: Why OpenSSL does not take a certificate, by its reason.
_UNUSABLE = {
    "ee key too small": "has a key that is too short to be safe; take RSA with at least 2048 bits, or another kind",
    "ca key too small": "holds a CA whose key is too short to be safe; use a CA with a longer one",
    "ca md too weak": "holds a certificate signed with a hash that is too weak, such as SHA-1; have it issued anew",
}
#: Most CAs without a revocation list that one process names in its log.
_MAX_UNLISTED = 20
#: The largest file that we read, in bytes.
_MAX_FILE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """The content of one set of files.

    :ivar context: for new connections.
    :ivar certificate: our own certificate.
    :ivar certificates: our certificate, then those of the CAs.
    :ivar listed: the CAs that have a revocation list.
    :ivar revoked: the issuers of the revoked certificates, by serial number.
    :ivar open_key: the key's file, if every user of the machine can read or change it.
    """

    context: SSL.Context
    certificate: x509.Certificate
    certificates: tuple[x509.Certificate, ...]
    listed: frozenset[x509.Name]
    revoked: dict[int, list[x509.Name]]
    open_key: Path | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the operator, one line each."""
        found = [warning for each in self.certificates if (warning := expiry_warning(each))]
        if self.open_key is not None:
            found.append(f"{self.open_key} is open to every user of this machine; chmod 600 {self.open_key}")
        return tuple(found)

    def is_later(self, shown: x509.Certificate) -> bool:
        """Return whether *shown*, an own certificate of before, expires soon, and the present one does not."""
        return expires_soon(shown) and not expires_soon(self.certificate)

    def is_revoked(self, certificate: x509.Certificate) -> bool:
        """Return whether the issuer of *certificate* has revoked it."""
        # Compare the serial number first: names are slow to compare.
        issuers = self.revoked.get(certificate.serial_number)
        return issuers is not None and certificate.issuer in issuers

    def why_revoked(self, peer: Peer) -> str:
        """Return which certificate of a peer's chain is revoked; empty if none is."""
        chain = (peer.certificate, *peer.issuers)
        return next((f"{show_subject(each)} is revoked" for each in chain if self.is_revoked(each)), "")


class Credentials(WatchedFiles[Loaded]):
    """The current :class:`Loaded`, read again when the files change.

    :param role: which end this is.
    :raises ConfigError: the files cannot be used; the message names the file and the fix.
    :ivar now: what new connections use.
    """

    log = Logger()
    needs_ca = True

    def __init__(self, settings: TlsSettings, role: Role) -> None:
        self.settings = settings
        self.role = role
        self._unlisted: set[x509.Name] = set()
        super().__init__(
            (settings.cert, settings.key, settings.ca, settings.crl), lambda: load(self.settings, self.role)
        )

    @property
    def allow_classical(self) -> bool:
        """See :class:`~rtunnel.tls.engine.OwnCredentials`."""
        return self.settings.allow_classical_certs

    def saw_issuer(self, ca: x509.Certificate) -> None:
        """Log it once if a CA that vouches for a peer has no revocation list."""
        name, known = ca.subject, self._unlisted
        if name in self.now.listed or name in known or len(known) == _MAX_UNLISTED:
            return
        known.add(name)
        self.log.emit(
            LogLevel.warn if self.now.listed else LogLevel.info,
            "the CA {name} has no revocation list in {path}, so certificates that it has revoked are accepted",
            name=show_name(ca),
            path=self.settings.crl,
        )


def load(settings: TlsSettings, role: Role) -> Loaded:
    """Read the files.

    :raises ConfigError: they cannot be used; the message names the file and the fix.
    """
    context = make_context(settings.groups, allow_classical=settings.allow_classical_certs)
    chain = read_certificates(settings.cert, f"{_FIXES[role]} --tls-cert")
    key = read_private_key(settings.key, f"{_FIXES[role]} --tls-key")
    authorities = read_certificates(settings.ca, f"{_FIXES[role]} --tls-ca")
    certificate = chain[0]
    _check_own(certificate, settings, role)
    if not settings.allow_classical_certs and not any(is_post_quantum(ca) for ca in authorities):
        raise ConfigError(_classical_problem(settings.ca, authorities[0]))
    use_certificate(context, chain, key, settings.cert, settings.key)
    store = context.get_cert_store()
    assert store is not None
    try:
        for ca in authorities:
            store.add_cert(crypto.X509.from_cryptography(ca))
    except crypto.Error as error:
        raise ConfigError(f"{settings.ca} holds a CA that cannot be used: {openssl_reason(error)}") from None
    lists = read_revocation_lists(settings.crl, authorities, "--tls-ca")
    for revocations in lists:
        store.add_crl(revocations)
    if lists:
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
    names = {ca.subject for ca in authorities}
    if any(ca.issuer not in names for ca in authorities):
        # An intermediate CA of the file whose root is missing may be the end of a chain.
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    elif lists:
        # At such an end OpenSSL would take the list of another CA for one of that CA, and refuse everybody.
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK_ALL)
    revoked: dict[int, list[x509.Name]] = {}
    for each in lists:
        for entry in each:
            revoked.setdefault(entry.serial_number, []).append(each.issuer)
    listed = frozenset(each.issuer for each in lists)
    open_key = settings.key if settings.key.stat().st_mode & 0o007 else None
    loaded = Loaded(context, certificate, (certificate, *authorities), listed, revoked, open_key)
    # cryptography decodes names on first use: let it fail now, and not in a warning later.
    _ = loaded.warnings
    return loaded


def use_certificate(
    context: SSL.Context, chain: Sequence[x509.Certificate], key: crypto.PKey, cert_file: Path, key_file: Path
) -> None:
    """Let *context* present a certificate, the first of *chain*, and sign with its *key*.

    :param cert_file: the chain's file, for the error.
    :param key_file: the key's file, for the error.
    :raises ConfigError: TLS cannot sign with such a key, or the key does not belong to the certificate.
    """
    if not has_tls_signature(chain[0]):
        raise ConfigError(
            f"{cert_file} has a key of {key_kind(chain[0])} for which TLS 1.3 has no signature; use one of ML-DSA, "
            "ECDSA with P-256, P-384 or P-521, Ed25519, or RSA"
        )
    try:
        context.use_certificate(chain[0])
        for intermediate in chain[1:]:
            context.add_extra_chain_cert(intermediate)
    except (SSL.Error, crypto.Error) as error:
        reason = openssl_reason(error)
        why = _UNUSABLE.get(reason, f"cannot be used: {reason}")
        raise ConfigError(f"{cert_file} {why}") from None
    try:
        use_private_key(context, key)
        context.check_privatekey()
    except (SSL.Error, crypto.Error):
        raise ConfigError(f"{key_file} is not the key of {cert_file}; give the two that belong together") from None


def _read(path: Path, fix: str) -> bytes:
    try:
        return read_trusted(path, _MAX_FILE)
    except OSError as error:
        if isinstance(error, PermissionError):
            fix = "let the user that runs this read it"
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {fix}") from error


def read_certificates(path: Path, fix: str) -> Sequence[x509.Certificate]:
    """Return the certificates in a PEM file, at least one.

    :param fix: what the operator should do about an error.
    :raises ConfigError: the file cannot be read, or has no certificate.
    """
    content = _read(path, fix)
    try:
        return pem.load_certificates(content)
    except ValueError as error:
        raise ConfigError(f"{path} is not a certificate in PEM; {fix}") from error


def read_private_key(path: Path, fix: str) -> crypto.PKey:
    """Return the private key in a PEM file.

    :param fix: what the operator should do about an error.
    :raises ConfigError: the file cannot be read, has no key, or its key has a passphrase.
    """
    content = _read(path, fix)
    if pem.is_encrypted(content):
        raise ConfigError(
            f"{path} is locked by a passphrase, and nobody is there to type it; unlock it with "
            "`openssl pkey -in FILE -out FILE`"
        )
    try:
        # Not with cryptography: pyOpenSSL accepts no ML-DSA key from it.
        return crypto.load_privatekey(crypto.FILETYPE_PEM, pem.only_key(content))
    except (crypto.Error, ValueError) as error:
        raise ConfigError(f"{path} is not a private key in PEM; {fix}") from error


def _check_own(own: x509.Certificate, settings: TlsSettings, role: Role) -> None:
    """Check that the other end can accept our certificate.

    :raises ConfigError: it cannot.
    """
    if not settings.allow_classical_certs and not is_post_quantum(own):
        raise ConfigError(_classical_problem(settings.cert, own))
    try:
        is_for_role = may_be(own, Kind(role.value))
    except ValueError as error:
        raise ConfigError(f"{settings.cert} has extensions that cannot be read: {error}") from error
    if not is_for_role:
        raise ConfigError(
            f"{settings.cert} is not for a {role.value}: its extended key usage does not say so; give a {role.value}'s "
            "certificate with --tls-cert"
        )


def _classical_problem(path: Path, certificate: x509.Certificate) -> str:
    return (
        f"{path} {classical_problem(certificate)}; use one of ML-DSA, or allow it at both ends with {CLASSICAL_OPTION}"
    )


def read_revocation_lists(
    path: Path, authorities: Sequence[x509.Certificate], option: str
) -> list[x509.CertificateRevocationList]:
    """Return the lists in a file, each signed by one of *authorities*; an empty list if there is no such file.

    :param option: which names the file of *authorities*.
    :raises ConfigError: the file cannot be used.
    """
    if not path.exists():
        return []
    content = _read(path, "make it readable, or remove it")
    blocks = [block for label, block in pem.blocks(content) if label == pem.CRL]
    if not blocks:
        raise ConfigError(f"{path} is not a revocation list in PEM; repair it, or remove it")
    by_name: dict[x509.Name, list[x509.Certificate]] = {}
    for ca in dict.fromkeys(authorities):
        by_name.setdefault(ca.subject, []).append(ca)
    lists = []
    for block in blocks:
        try:
            revocations = pem.load_crl(block)
        except ValueError as error:
            raise ConfigError(f"{path} is not a revocation list in PEM: {error}") from error
        named = by_name.get(revocations.issuer, [])
        if not any(is_from(revocations, ca) for ca in named):
            if named and key_kind(named[0]).startswith("SLH-DSA"):
                raise ConfigError(
                    f"{path} is signed with {key_kind(named[0])}, which cannot be checked here; for revocation take a "
                    "CA with a key of ML-DSA"
                )
            raise ConfigError(
                f"{path} is not signed by a CA of {option}, so it revokes nothing; put the list of that CA there"
            )
        lists.append(revocations)
    return lists
