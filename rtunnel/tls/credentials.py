"""Our certificate and key, whom we trust, and who is revoked: from files, and again when the files change.

Each set of files that fits together is one :class:`Loaded`; new connections take the newest. A set that does not fit is
never used: at the start it is an error, later the set before it stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto

from rtunnel.errors import ConfigError
from rtunnel.tls.identity import expiry_warning
from rtunnel.tls.openssl import use_private_key
from rtunnel.tls.policy import CLASSICAL_OPTION, Role, TlsSettings, is_post_quantum, key_kind, make_context
from rtunnel.tls.sessions import SessionBounds

_PURPOSE = {Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH, Role.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}
_FIXES = {
    Role.SERVER: "make one with `rtunnel pki init`, or name yours with",
    Role.CLIENT: "get one with `rtunnel pki import`, or name yours with",
}
#: Larger files hold something else.
_MAX_FILE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Own:
    """What an end shows of itself.

    :ivar chain: its certificate, then those between it and the CA.
    :ivar key: of the certificate.
    """

    chain: tuple[x509.Certificate, ...]
    key: crypto.PKey

    @property
    def is_over(self) -> bool:
        """The certificate is not valid any more."""
        return datetime.now(UTC) > self.chain[0].not_valid_after_utc


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files say.

    :ivar context: for new connections.
    :ivar own: our certificate and key.
    :ivar certificates: ours, then those of the CAs.
    :ivar revoked: serial numbers of the certificates that are void, and their issuers.
    :ivar sessions: until when those made with *context* may be resumed.
    :ivar open_key: the key's file, where every user of the machine can read or change it.
    """

    context: SSL.Context
    own: Own
    certificates: tuple[x509.Certificate, ...]
    revoked: dict[int, list[x509.Name]]
    sessions: SessionBounds
    open_key: Path | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator should know today, a line each."""
        found = [warning for each in self.certificates if (warning := expiry_warning(each))]
        if self.open_key is not None:
            found.append(f"{self.open_key} is open to every user of this machine; chmod 600 {self.open_key}")
        return tuple(found)

    def is_revoked(self, certificate: x509.Certificate) -> bool:
        """Whether its issuer has declared *certificate* void."""
        # Names take long to compare.
        issuers = self.revoked.get(certificate.serial_number)
        return issuers is not None and certificate.issuer in issuers


class Credentials:
    """The present :class:`Loaded`, kept up to date.

    :param role: which end this is.
    :raises ConfigError: the files cannot be used; the message names the file and the fix.
    :ivar now: what new connections use.
    """

    def __init__(self, settings: TlsSettings, role: Role) -> None:
        self.settings = settings
        self.role = role
        self._seen = self._state_of_files()
        self._broken = False
        self.now = load(settings, role)

    def refresh(self) -> str | None:
        """Look whether the files have changed, and read them again.

        :returns: why they cannot be used, once, when they have been so for two looks; None: nothing to complain about.
            That :attr:`now` is another shows that something new is in use.
        """
        state = self._state_of_files()
        if state == self._seen and not self._broken:
            return None
        is_news, self._seen = state != self._seen, state
        try:
            self.now = load(self.settings, self.role)
        except ConfigError as error:
            # A key and its certificate are two files: between the two writes they do not fit, which is no news.
            complain = self._broken and not is_news
            self._broken = is_news
            return str(error) if complain else None
        self._broken = False
        return None

    def keeping(self, own: Own) -> Credentials:
        """The files of this moment, but for our certificate and key: these are *own*.

        :raises ConfigError: the other files cannot be used.
        """
        kept = copy(self)
        if own.chain != self.now.own.chain:
            kept.now = load(self.settings, self.role, own)
        return kept

    def _state_of_files(self) -> tuple[object, ...]:
        settings = self.settings
        return tuple(state_of_file(path) for path in (settings.cert, settings.key, settings.ca, settings.crl))


def state_of_file(path: Path) -> object:
    """What is another when the file has changed."""
    try:
        stat = path.stat()
    except OSError as error:
        return error.errno
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev)


def load(settings: TlsSettings, role: Role, own: Own | None = None) -> Loaded:
    """Read the files.

    :param own: in place of what the files say.
    :raises ConfigError: they cannot be used; the message names the file and the fix.
    """
    context = make_context(settings)
    is_in_files = own is None
    if own is None:
        chain = read_certificates(settings.cert, f"{_FIXES[role]} --tls-cert")
        own = Own(tuple(chain), read_private_key(settings.key, f"{_FIXES[role]} --tls-key"))
    authorities = read_certificates(settings.ca, f"{_FIXES[role]} --tls-ca")
    certificate = own.chain[0]
    _check_own(certificate, settings, role)
    if not settings.allow_classical_certs and not any(is_post_quantum(ca) for ca in authorities):
        raise ConfigError(_classical(settings.ca, authorities[0]))
    context.use_certificate(certificate)
    for between in own.chain[1:]:
        context.add_extra_chain_cert(between)
    try:
        use_private_key(context, own.key)
        context.check_privatekey()
    except (SSL.Error, crypto.Error):
        problem = f"{settings.key} is not the key of {settings.cert}; give the two that belong together"
        raise ConfigError(problem) from None
    store = context.get_cert_store()
    assert store is not None
    for ca in authorities:
        store.add_cert(crypto.X509.from_cryptography(ca))
    lists = _revocation_lists(settings.crl, authorities)
    for revocations in lists:
        store.add_crl(revocations)
    if lists:
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
    revoked: dict[int, list[x509.Name]] = {}
    for each in lists:
        for entry in each:
            revoked.setdefault(entry.serial_number, []).append(each.issuer)
    open_key = settings.key if is_in_files and settings.key.stat().st_mode & 0o007 else None
    return Loaded(context, own, (certificate, *authorities), revoked, SessionBounds(certificate), open_key)


def _read(path: Path, fix: str) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise ConfigError(f"{path} is too large; {fix}")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {fix}") from error


def read_certificates(path: Path, fix: str) -> Sequence[x509.Certificate]:
    """The certificates in a file of PEM, one at least.

    :raises ConfigError: it is none; with *fix*, what to do.
    """
    content = _read(path, fix)
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ConfigError(f"{path} is not a certificate in PEM; {fix}") from error


def read_private_key(path: Path, fix: str) -> crypto.PKey:
    """The private key in a file of PEM.

    :raises ConfigError: it is none; with *fix*, what to do.
    """
    content = _read(path, fix)
    if re.search(rb"-----BEGIN ENCRYPTED|^Proc-Type: 4,ENCRYPTED", content, re.MULTILINE):
        raise ConfigError(
            f"{path} is locked by a passphrase, and nobody is there to type it; unlock it with "
            "`openssl pkey -in FILE -out FILE`"
        )
    try:
        return crypto.load_privatekey(crypto.FILETYPE_PEM, content)
    except (crypto.Error, ValueError) as error:
        raise ConfigError(f"{path} is not a private key in PEM; {fix}") from error


def _check_own(own: x509.Certificate, settings: TlsSettings, role: Role) -> None:
    """See that the other end can accept our certificate."""
    if not settings.allow_classical_certs and not is_post_quantum(own):
        raise ConfigError(_classical(settings.cert, own))
    try:
        usage = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    except ValueError as error:
        raise ConfigError(f"{settings.cert} has extensions that cannot be read: {error}") from error
    if _PURPOSE[role] not in usage and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usage:
        raise ConfigError(
            f"{settings.cert} is not for a {role.value}: its extended key usage does not say so; give a {role.value}'s "
            "certificate with --tls-cert"
        )


def _classical(path: Path, certificate: x509.Certificate) -> str:
    return (
        f"{path} has a key of {key_kind(certificate)}, which a quantum computer can forge; use one of ML-DSA, or allow "
        f"it at both ends with {CLASSICAL_OPTION}"
    )


def _revocation_lists(path: Path, authorities: Sequence[x509.Certificate]) -> list[x509.CertificateRevocationList]:
    """The lists in a file, each of which one of *authorities* has signed; none where there is no file."""
    if not path.exists():
        return []
    content = _read(path, "make it readable, or remove it")
    blocks = re.findall(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", content, re.DOTALL)
    if not blocks:
        raise ConfigError(f"{path} is not a revocation list in PEM; repair it, or remove it")
    lists = []
    for block in blocks:
        try:
            revocations = x509.load_pem_x509_crl(block)
            signers = [ca for ca in authorities if ca.subject == revocations.issuer]
            signed = any(_has_signed(ca, revocations) for ca in signers)
        except ValueError as error:
            raise ConfigError(f"{path} is not a revocation list in PEM: {error}") from error
        if not signed:
            raise ConfigError(
                f"{path} is not signed by a CA of --tls-ca, so it revokes nothing; put the list of that CA there"
            )
        lists.append(revocations)
    return lists


def _has_signed(ca: x509.Certificate, revocations: x509.CertificateRevocationList) -> bool:
    key: Any = ca.public_key()
    try:
        return bool(revocations.is_signature_valid(key))
    except Exception:
        # Which exception depends on the algorithm of either of them.
        return False
