"""The certificates in a directory, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from rtunnel.errors import PkiError
from rtunnel.pki import files, names
from rtunnel.pki.certificates import Kind, common_name, expires_soon, fits, kind_of, revocations, signed_by
from rtunnel.pki.store import Pair, Store, parse_certificate, parse_key

_NAMES = {Kind.CA: names.CA, Kind.SERVER: names.SERVER}


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate.

    :ivar name: the name that commands take.
    :ivar path: its file.
    :ivar role: its role.
    :ivar replaced: whether a newer one has replaced it.
    :ivar revoked: when it was revoked; None if it was not.
    :ivar problems: warnings for the operator, one line each.
    """

    name: str
    path: Path
    role: Kind
    certificate: x509.Certificate
    days_left: int
    replaced: bool = False
    revoked: datetime | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The content of a directory.

    :ivar problems: warnings for the operator, beside those of each entry.
    """

    entries: list[Entry]
    crl: x509.CertificateRevocationList | None
    problems: list[str]


def take(store: Store, *, everything: bool = False, now: datetime | None = None) -> Inventory:
    """List what a directory holds. Nothing is changed.

    :param everything: whether to list replaced certificates that are no longer valid, too.
    :raises PkiError: the directory is empty, or another user has a say in what is in it.
    """
    now = now or datetime.now(UTC)
    files.check_directory(store.directory)
    problems: list[str] = []
    ca = _read(store.ca, problems)
    crl = None
    if ca is not None:
        try:
            crl = store.load_crl(ca)
        except PkiError as error:
            problems.append(str(error))
    revoked = revocations(crl)
    signs = store.ca.key.exists()
    entries = []
    for name, role, pair in _pairs(store):
        certificate = ca if role is Kind.CA else _read(pair, problems)
        if certificate is not None:
            since = revoked.get(certificate.serial_number)
            left = (certificate.not_valid_after_utc - now).days
            found = [
                *_time_problems(name, certificate, now, signs),
                *_key_problems(pair, certificate, _remedy(name, signs)),
            ]
            if ca is not None and not signed_by(certificate, ca):
                found.append(f"it is not from the CA {store.ca.certificate}")
            name = name or names.shown(common_name(certificate))
            entries.append(Entry(name, pair.certificate, role, certificate, left, revoked=since, problems=found))
    for path, certificate in store.replaced():
        kind = kind_of(certificate) or Kind.CLIENT
        since = revoked.get(certificate.serial_number)
        # A replaced certificate matters only while it can be revoked, and only on the machine that revokes.
        if everything or (signs and kind is not Kind.CA and since is None and certificate.not_valid_after_utc > now):
            name = _NAMES.get(kind) or names.shown(common_name(certificate))
            left = (certificate.not_valid_after_utc - now).days
            entries.append(Entry(name, path, kind, certificate, left, replaced=True, revoked=since))
    if crl is not None and crl.next_update_utc is not None and crl.next_update_utc <= now:
        problems.append(f"the revocation list {store.crl} expired on {crl.next_update_utc:%Y-%m-%d}")
    if not entries and not problems:
        raise PkiError(
            f"there is nothing in {store.directory}; 'rtunnel pki init' makes a CA there, 'rtunnel pki import FILE' "
            "unpacks what another machine made"
        )
    return Inventory(entries, crl, problems)


def _pairs(store: Store) -> Iterator[tuple[str, Kind, Pair]]:
    yield names.CA, Kind.CA, store.ca
    yield names.SERVER, Kind.SERVER, store.server
    # On a client's own machine, only its certificate has its name.
    yield "", Kind.CLIENT, store.own_client
    yield "", Kind.HOST, store.own_host
    for kind, found in ((Kind.CLIENT, store.client_names()), (Kind.HOST, store.host_names())):
        for name in found:
            yield name, kind, store.new_pair(name, kind)


def _read(pair: Pair, problems: list[str]) -> x509.Certificate | None:
    if not pair.certificate.exists():
        if pair.key.exists():
            problems.append(f"{pair.key} exists without its certificate")
        return None
    try:
        return parse_certificate(files.read(pair.certificate), pair.certificate)
    except PkiError as error:
        problems.append(str(error))
    return None


def _remedy(name: str, signs: bool) -> str:
    return f"run: rtunnel pki renew {name}" if signs and name else "ask for a new bundle"


def _time_problems(name: str, certificate: x509.Certificate, now: datetime, signs: bool) -> Iterator[str]:
    remedy = _remedy(name, signs)
    left = certificate.not_valid_after_utc - now
    if certificate.not_valid_before_utc > now:
        yield f"it is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; is the clock right?"
    if left <= timedelta():
        yield f"it has expired; {remedy}"
    elif expires_soon(certificate, now):
        yield f"it expires in {left.days} days; {remedy}"


def _key_problems(pair: Pair, certificate: x509.Certificate, remedy: str) -> Iterator[str]:
    try:
        if not pair.key.exists():
            # Only the machine that issues certificates has the CA's key.
            if kind_of(certificate) is not Kind.CA:
                yield f"its key {pair.key} is missing; {remedy}"
            return
        if pair.key.stat().st_mode & 0o007:
            yield f"its key is open to every user of this machine; run: chmod 600 {pair.key}"
        content = files.read(pair.key)
    except (OSError, PkiError):
        # This user may read certificates, but not keys.
        return
    try:
        if not fits(parse_key(content, pair.key), certificate):
            yield f"{pair.key} is not its key; {remedy}"
    except PkiError as error:
        yield str(error)
