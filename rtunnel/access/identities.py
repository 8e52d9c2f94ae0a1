"""Who an end of the WebRTC tunnel is: an ML-DSA-65 key and its certificate, made when it is first needed.

Peers know an identity by its fingerprint, the SHA-256 of the certificate. Key and certificate are in one file, so that
they always fit, for this user only, and written whole or not at all::

    STATE/identities/host.pem
    STATE/identities/client.pem

An identity may have a second key of another kind (:mod:`rtunnel.tls.hedge.second`), which is made with it, or never:
the certificate names it. It is a block of its own in the same file.

An organisation with a CA gives the files of ``rtunnel pki`` instead.
"""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL, crypto

from rtunnel.access.peers.fingerprints import parse_fingerprint, show_fingerprint
from rtunnel.errors import ConfigError, PkiError
from rtunnel.pki import authority, files, pem
from rtunnel.pki.certificates import Kind, classical_problem, fingerprint, fits, is_post_quantum, key_kind, may_be
from rtunnel.pki.directories import opened
from rtunnel.pki.files import PRIVATE, Draft
from rtunnel.tls.credentials import read_certificates, read_private_key, use_certificate
from rtunnel.tls.hedge.second import BLOCK, SecondKey, second_of
from rtunnel.trusted_files import is_trusted, read_all, user_name

__all__ = [
    "FOLDER",
    "Identity",
    "ephemeral_identity",
    "identity_from_files",
    "load_identity",
    "make_identity",
    "parse_fingerprint",
    "show_fingerprint",
]

#: The folder of identities in the state directory.
FOLDER = "identities"
#: Most bytes of a file with an identity; it has 8 KB, or 17 KB with a second key.
MAX_SIZE = 256 * 1024


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key.

    :ivar certificate: signed by itself, or by a CA.
    :ivar chain: the certificates of the CAs between it and the one that peers know; may be empty.
    :ivar key: its private key.
    :ivar second: the second key, which the certificate names; None: it names none.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    #: It belongs to the certificate, so that need not be compared; and no two objects of this class are equal.
    key: crypto.PKey = field(compare=False)
    second: SecondKey | None = None

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate (DER): 64 lowercase hexadecimal digits."""
        return fingerprint(self.certificate)

    @property
    def signature(self) -> str:
        """The algorithms of its keys, such as ``ML-DSA-65 + Falcon-1024``."""
        kind = key_kind(self.certificate)
        return kind if self.second is None else f"{kind} + {self.second.name}"


def make_identity(name: str, second: str = "") -> tuple[bytes, bytes]:
    """Make an identity; return its certificate and its keys, in PEM.

    :param name: the common name, which nobody's trust depends on; at most 64 characters.
    :param second: the scheme of a second key, one of :data:`~rtunnel.tls.hedge.schemes.SCHEMES`; empty: there is none.
    :raises ConfigError: this machine cannot make such a second key.
    """
    if not second:
        made = authority.make_self_signed(name)
        return made.certificate_pem, made.key_pem
    key = SecondKey.make(second)
    made = authority.make_self_signed(name, key.extension)
    return made.certificate_pem, made.key_pem + key.write().encode("ascii")


def ephemeral_identity(second: str = "") -> Identity:
    """Return an identity that is stored nowhere: for tests, and where there is no state directory.

    :param second: see :func:`make_identity`.
    :raises ConfigError: see :func:`make_identity`.
    """
    return _parsed(b"".join(make_identity("rtunnel", second)), "a new identity")


def load_identity(path: Path, name: str, second: str | None = None) -> Identity:
    """Return the identity in a file, which is made if there is none. Of two processes at once, one makes it.

    :param name: see :func:`make_identity`.
    :param second: the scheme of the second key that it must have; None: it may have any, or none, and a new one has
        none.
    :raises ConfigError: it cannot be read or made, or has not the second key; the message says what to do.
    """
    try:
        # An empty file may be one that another process is just writing, on file systems without hard links.
        content = _read(path) or _make(path, name, second or "")
    except PkiError as error:
        raise ConfigError(f"the identity of this machine: {error}") from None
    found = _parsed(content, str(path))
    if second and (found.second is None or found.second.name != second):
        quoted = shlex.quote(str(path))
        raise ConfigError(
            f"{path} is an identity of {found.signature}, and is never replaced: others know it by its fingerprint, "
            f"and the new one would have another. If you want that, stop what uses it, run `mv {quoted} {quoted}.old`, "
            "repeat this, and tell the others the new fingerprint"
        )
    return found


def identity_from_files(cert: Path, key: Path, end: str) -> Identity:
    """Return the identity that ``rtunnel pki`` has made.

    :param cert: PEM file with the certificate, followed by any intermediate certificates.
    :param key: PEM file with its private key.
    :param end: what it must be for, ``host`` or ``client``.
    :raises ConfigError: they cannot be used; the message names the file and the fix.
    """
    fix = "get one with `rtunnel pki import`, or name yours with"
    certificate, *chain = read_certificates(cert, f"{fix} --identity-cert")
    private = read_private_key(key, f"{fix} --identity-key")
    if not is_post_quantum(certificate):
        raise ConfigError(f"{cert} {classical_problem(certificate)}; use one of ML-DSA")
    try:
        is_for_end = may_be(certificate, Kind(end))
    except ValueError as error:
        raise ConfigError(f"{cert} has extensions that cannot be read: {error}") from error
    if not is_for_end:
        raise ConfigError(
            f"{cert} is not for a {end}: its extended key usage does not say so; make one with `rtunnel pki {end}`"
        )
    if _second_of(certificate, str(cert)) is not None:
        raise ConfigError(
            f"{cert} names a second key, which only identities that `rtunnel id` has made can have; use a certificate "
            "without one"
        )
    use_certificate(SSL.Context(SSL.TLS_METHOD), (certificate, *chain), private, cert, key)
    return Identity(certificate, tuple(chain), private)


def _make(path: Path, name: str, second: str) -> bytes:
    folder = path.parent
    files.make_directory(folder)
    with files.locked(folder):
        # Another process may have been quicker.
        content = _read(path)
        if content is not None:
            return content
        content = b"".join(make_identity(name, second))
        files.publish([Draft(path, content, PRIVATE)])
    return content


def _read(path: Path) -> bytes | None:
    """Return the content of a file; None if there is none.

    :raises PkiError: others can read or write it, or it cannot be read.
    """
    try:
        with files.complaints(path, "read"):
            try:
                with opened(path.parent) as directory:
                    descriptor = directory.read(path.name)
            except FileNotFoundError:
                return None
            try:
                _check(path, os.fstat(descriptor))
                return read_all(descriptor, MAX_SIZE)
            finally:
                os.close(descriptor)
    except ConfigError as error:
        raise PkiError(str(error)) from None


def _check(path: Path, status: os.stat_result) -> None:
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise PkiError(f"{path} is not a file; remove it, and a new identity is made")
    if not hasattr(os, "geteuid"):
        return
    if not is_trusted(status.st_uid):
        owner = user_name(status.st_uid)
        raise PkiError(
            f"{path} belongs to the user {owner}, who knows the key in it; run this as {owner}, name another "
            f"directory with --state-dir, or remove it: rm {quoted}"
        )
    if status.st_mode & 0o027:
        who = "every user of this machine" if status.st_mode & 0o007 else "other users"
        verb = "read" if status.st_mode & 0o004 else "change"
        raise PkiError(
            f"{who} can {verb} the key in {path}; if nobody has, run: chmod 600 {quoted}; else remove it, and a new "
            "identity is made"
        )


_REMEDY = "put back a copy, or remove it: then a new identity is made, and peers must be told its fingerprint"


def _parsed(content: bytes, source: str) -> Identity:
    try:
        certificate, *chain = pem.load_certificates(content)
        key = pem.load_key(content)
        private = crypto.load_privatekey(crypto.FILETYPE_PEM, pem.only_key(content))
        does_fit = fits(key, certificate)
    except (ValueError, crypto.Error):
        raise ConfigError(f"{source} is damaged: it has no certificate with its key in PEM; {_REMEDY}") from None
    if not does_fit:
        raise ConfigError(f"{source} is damaged: its key does not belong to its certificate; {_REMEDY}")
    if not is_post_quantum(certificate):
        raise ConfigError(f"{source} {classical_problem(certificate)}; remove it: then a new identity is made")
    return Identity(certificate, tuple(chain), private, _second_key(content, certificate, source))


def _second_of(certificate: x509.Certificate, source: str) -> tuple[str, bytes] | None:
    try:
        return second_of(certificate)
    except ValueError as error:
        raise ConfigError(f"{source} is damaged: its {error}; {_REMEDY}") from None


def _second_key(content: bytes, certificate: x509.Certificate, source: str) -> SecondKey | None:
    named = _second_of(certificate, source)
    found = [block for label, block in pem.blocks(content) if label == BLOCK]
    if named is None and not found:
        return None
    try:
        if named is None:
            raise ValueError("it has a second key that its certificate does not name")
        if len(found) != 1:
            raise ValueError("the second key that its certificate names is missing, or there are several")
        key = SecondKey.read(found[0].decode("ascii", "replace"))
        if not key.belongs_to(certificate):
            raise ValueError("its second key does not belong to its certificate")
    except ConfigError as error:
        raise ConfigError(f"{source}: its second key: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{source} is damaged: {error}; {_REMEDY}") from None
    return key
