"""Unpack a bundle on the machine that it is for.

Existing files stay, unless the bundle holds a newer certificate of the same name from the same CA: then the old one is
put aside. Anything else is replaced only with ``--replace``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from rtunnel.errors import PkiError
from rtunnel.pki import files, names
from rtunnel.pki.bundle import Bundle
from rtunnel.pki.certificates import Kind, common_name, crl_number, is_from, key_digest, kind_of
from rtunnel.pki.files import PRIVATE, PUBLIC, Draft
from rtunnel.pki.store import Pair, Store, parse_certificate, parse_crl


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What :func:`unpack` has done.

    :ivar written: the files that it wrote, most important first; empty if all existed.
    :ivar put_aside: the copies of the files that it replaced.
    """

    written: list[Path]
    put_aside: list[Path]


def unpack(
    store: Store, bundle: Bundle, *, replace: bool = False, group: int | None = None, now: datetime | None = None
) -> Unpacked:
    """Write the content of a bundle to the store.

    :param replace: whether it may replace another CA, or a certificate of another name.
    :param group: the number of a group that may read all of it, the key included.
    :raises PkiError: it would have to replace something else; nothing has changed.
    """
    now = now or datetime.now(UTC)
    files.make_directory(store.directory, group)
    pair = {Kind.SERVER: store.server, Kind.HOST: store.own_host}.get(bundle.kind, store.own_client)
    with files.locked(store.directory):
        same_ca = _check_ca(store, bundle.ca, replace)
        mine = _check_own(pair, bundle, replace or not same_ca)
        drafts = []
        if mine:
            mode = PRIVATE if group is None else 0o640
            drafts.append(Draft(pair.certificate, bundle.identity.certificate_pem, PUBLIC))
            drafts.append(Draft(pair.key, bundle.identity.key_pem, mode, group=group))
        authority = bundle.ca.public_bytes(Encoding.PEM)
        if not store.ca.key.exists() and not _has(store.ca.certificate, bundle.ca):
            drafts.append(Draft(store.ca.certificate, authority, PUBLIC))
        stale_list = store.crl.exists() and not same_ca
        if bundle.crl is not None and _is_news(store, bundle):
            drafts.append(Draft(store.crl, bundle.crl.public_bytes(Encoding.PEM), PUBLIC))
            stale_list = False
        aside = store.put_aside([draft.path for draft in drafts] + ([store.crl] if stale_list else []), now)
        if aside:
            files.make_directory(store.old)
        replacing = [
            Draft(draft.path, draft.content, draft.mode, draft.path.exists(), draft.group) for draft in reversed(drafts)
        ]
        files.publish([*aside, *replacing])
        if stale_list:
            files.remove(store.crl)
    return Unpacked([draft.path for draft in drafts], [draft.path for draft in aside])


def _check_ca(store: Store, ca: x509.Certificate, replace: bool) -> bool:
    """Return whether the CA in the directory, if any, is the same."""
    path = store.ca.certificate
    if not path.exists():
        return True
    there = parse_certificate(files.read(path), path)
    if key_digest(there.public_key()) == key_digest(ca.public_key()) and there.subject == ca.subject:
        return True
    if store.ca.key.exists():
        raise PkiError(f"{store.directory} belongs to another CA; import into another --dir")
    if not replace:
        raise PkiError(f"{path} is not the CA of the bundle; name another --dir, or --replace the existing one")
    return False


def _check_own(pair: Pair, bundle: Bundle, replace: bool) -> bool:
    """Return whether to write the certificate and key of the bundle: not if they are there already."""
    new = bundle.identity.certificate
    if not pair.certificate.exists():
        if pair.key.exists() and not replace:
            raise PkiError(f"{pair.key} exists without its certificate; name another --dir, or --replace it")
        return True
    there = parse_certificate(files.read(pair.certificate), pair.certificate)
    if there == new:
        try:
            pair.load()
        except PkiError:
            # The certificate is useless without its key: write both.
            return True
        return False
    name = names.shown(common_name(there))
    if not replace and (common_name(there) != common_name(new) or kind_of(there) is not kind_of(new)):
        raise PkiError(f"{pair.certificate} belongs to '{name}'; name another --dir, or --replace it")
    if not replace and there.not_valid_before_utc > new.not_valid_before_utc:
        raise PkiError(f"{pair.certificate} is newer than that of the bundle; --replace it if that is intended")
    return True


def _has(path: Path, certificate: x509.Certificate) -> bool:
    return path.exists() and parse_certificate(files.read(path), path) == certificate


def _is_news(store: Store, bundle: Bundle) -> bool:
    """Return whether the revocation list of a bundle is newer than the store's."""
    if bundle.crl is None or store.ca.key.exists():
        return False
    if not store.crl.exists():
        return True
    there = parse_crl(files.read(store.crl), store.crl)
    return not is_from(there, bundle.ca) or crl_number(there) < crl_number(bundle.crl)
