"""What ``rtunnel pki`` does. Nothing here prints; the command line does.

Each function takes the :class:`~rtunnel.pki.store.Store` to work in. It does all of its work, or none of it and raises
:class:`~rtunnel.errors.PkiError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from rtunnel.errors import PkiError
from rtunnel.pki import authority, files, names
from rtunnel.pki.authority import CA_DAYS, LEAF_DAYS
from rtunnel.pki.bundle import Bundle
from rtunnel.pki.certificates import (
    Algorithm,
    Identity,
    Kind,
    algorithm_of,
    common_name,
    crl_number,
    expires_soon,
    hosts_of,
    revocations,
    signed_by,
)
from rtunnel.pki.files import PRIVATE, PUBLIC, Draft
from rtunnel.pki.store import Store


@dataclass(frozen=True, slots=True)
class Made:
    """New certificates.

    :ivar capped: whether the certificate expires earlier than asked for, because the CA does.
    """

    ca: x509.Certificate
    certificate: x509.Certificate
    capped: bool = False


def init(
    store: Store,
    hosts: Sequence[str],
    *,
    algorithm: Algorithm = Algorithm.ML_DSA_65,
    ca_days: int = CA_DAYS,
    days: int = LEAF_DAYS,
    group: int | None = None,
    now: datetime | None = None,
) -> Made:
    """Make a CA with an empty revocation list, and a certificate for the server.

    :param hosts: the names of the server, from :func:`rtunnel.pki.names.hosts`.
    :param group: the number of a group that may read what the server needs, its key included.
    """
    now = now or datetime.now(UTC)
    files.make_directory(store.directory, group)
    with files.locked(store.directory):
        for path in (store.ca.certificate, store.ca.key, store.server.certificate, store.server.key):
            if path.exists():
                raise PkiError(
                    f"{path} already exists, and is not overwritten; see 'rtunnel pki show', 'rtunnel pki renew', "
                    "or take another --dir"
                )
        ca = authority.make_ca(algorithm=algorithm, days=ca_days, now=now)
        server = authority.issue(ca, Kind.SERVER, _server_name(hosts), hosts=hosts, days=days, now=now)
        crl = authority.make_crl(ca, now=now)
        files.publish(
            [
                Draft(store.ca.key, ca.key_pem, PRIVATE),
                Draft(store.ca.certificate, ca.certificate_pem, PUBLIC),
                Draft(store.crl, crl.public_bytes(Encoding.PEM), PUBLIC),
                Draft(store.server.key, server.key_pem, PRIVATE if group is None else 0o640, group=group),
                Draft(store.server.certificate, server.certificate_pem, PUBLIC),
            ]
        )
    return _made(ca, server, days, now)


def add_client(
    store: Store,
    name: str,
    *,
    algorithm: Algorithm | None = None,
    days: int = LEAF_DAYS,
    now: datetime | None = None,
) -> Made:
    """Make a certificate for a client.

    :param algorithm: None: that of the CA.
    """
    return _add(store, name, Kind.CLIENT, algorithm, days, now or datetime.now(UTC))


def add_host(
    store: Store,
    name: str,
    *,
    algorithm: Algorithm | None = None,
    days: int = LEAF_DAYS,
    now: datetime | None = None,
) -> Made:
    """Make a certificate for a host of the WebRTC tunnel, under its ID. No client has the same name.

    :param algorithm: None: that of the CA.
    """
    return _add(store, name, Kind.HOST, algorithm, days, now or datetime.now(UTC))


def _add(store: Store, name: str, kind: Kind, algorithm: Algorithm | None, days: int, now: datetime) -> Made:
    pair = store.new_pair(names.client_name(name), kind)
    with _signing(store) as ca:
        if (there := store.pair(name).certificate).exists():
            what = Kind.HOST if there.parent == store.hosts else Kind.CLIENT
            raise PkiError(
                f"{what} '{name}' already exists; 'rtunnel pki renew {name}' replaces its certificate, "
                f"'rtunnel pki bundle {name} -o FILE' bundles the one that it has"
            )
        if pair.key.exists():
            raise PkiError(f"{pair.key} exists without its certificate; first move it away")
        _check_time(ca.certificate, now)
        made = authority.issue(ca, kind, name, algorithm=algorithm, days=days, now=now)
        files.make_directory(pair.certificate.parent)
        files.publish([Draft(pair.key, made.key_pem, PRIVATE), Draft(pair.certificate, made.certificate_pem, PUBLIC)])
    return _made(ca, made, days, now)


def renew(
    store: Store,
    name: str,
    *,
    hosts: Sequence[str] = (),
    algorithm: Algorithm | None = None,
    days: int = LEAF_DAYS,
    revoke_old: bool = False,
    now: datetime | None = None,
) -> Made:
    """Replace a key and a certificate with new ones, and put the old ones aside.

    :param name: a client's name, a host's ID, or ``server``.
    :param hosts: new names of the server; empty: keep those that it has.
    :param algorithm: None: the same as before.
    :param revoke_old: whether to revoke the old certificate.
    """
    now = now or datetime.now(UTC)
    pair = store.pair(name)
    with _signing(store) as ca:
        _check_time(ca.certificate, now)
        # A CA that another program made may not have issued a certificate for the server yet.
        first = name == names.SERVER and bool(hosts) and not pair.certificate.exists()
        old = None if first else store.load_certificate(name)
        if old is not None:
            algorithm = algorithm or algorithm_of(old)
        if name == names.SERVER:
            hosts = list(hosts) or ([] if old is None else hosts_of(old))
            subject = _server_name(hosts) if hosts or old is None else common_name(old)
            new = authority.issue(ca, Kind.SERVER, subject, hosts=hosts, algorithm=algorithm, days=days, now=now)
        else:
            kind = Kind.HOST if pair.certificate.parent == store.hosts else Kind.CLIENT
            new = authority.issue(ca, kind, name, algorithm=algorithm, days=days, now=now)
        drafts = [
            *store.put_aside([pair.certificate, pair.key], now),
            Draft(pair.key, new.key_pem, PRIVATE, replaces=True),
            Draft(pair.certificate, new.certificate_pem, PUBLIC, replaces=True),
        ]
        if revoke_old and old is not None:
            drafts.append(_revocation(store, ca, [old.serial_number], now))
        files.make_directory(store.old)
        files.publish(drafts)
    return _made(ca, new, days, now)


def renew_ca(store: Store, *, days: int = CA_DAYS, now: datetime | None = None) -> Made:
    """Make the CA valid for longer. Its key stays, and so do all certificates."""
    now = now or datetime.now(UTC)
    with _signing(store) as old:
        ca = authority.renew_ca(old, days=days, now=now)
        files.make_directory(store.old)
        files.publish(
            [
                *store.put_aside([store.ca.certificate], now),
                Draft(store.ca.certificate, ca.certificate_pem, PUBLIC, replaces=True),
                _revocation(store, ca, [], now),
            ]
        )
    return Made(ca.certificate, ca.certificate)


def due(store: Store, now: datetime | None = None) -> list[str]:
    """Return the names whose certificates should be renewed: they expire soon and are not revoked."""
    now = now or datetime.now(UTC)
    revoked = revocations(store.load_crl(store.load_certificate(names.CA)))
    server = [names.SERVER] if store.server.certificate.exists() else []
    known = [names.CA, *server, *store.client_names(), *store.host_names()]
    certificates = {name: store.load_certificate(name) for name in known}
    return [
        name
        for name, certificate in certificates.items()
        if expires_soon(certificate, now) and certificate.serial_number not in revoked
    ]


def revoke(store: Store, name: str, *, only_replaced: bool = False, now: datetime | None = None) -> list[int]:
    """Revoke every certificate of that name, replaced ones included.

    :param only_replaced: whether the current one stays valid.
    :returns: the serial numbers that were not revoked before.
    """
    now = now or datetime.now(UTC)
    if name == names.CA:
        raise PkiError("the CA cannot revoke itself; to start over, run 'rtunnel pki init' with another --dir")
    with _signing(store) as ca:
        present = store.load_certificate(name)
        wanted = [] if only_replaced else [present]
        wanted += store.replaced_of(name, present)
        known = revocations(store.load_crl(ca.certificate))
        fresh = [
            one.serial_number for one in wanted if one.serial_number not in known and signed_by(one, ca.certificate)
        ]
        if fresh:
            files.publish([_revocation(store, ca, fresh, now)])
    return fresh


def make_bundle(store: Store, name: str, *, now: datetime | None = None) -> Bundle:
    """Return what another machine needs.

    :param name: a client's name, a host's ID, or ``server`` if the CA is not on the server's machine.
    """
    if name == names.CA:
        raise PkiError("the key of the CA stays where it is; name a client, or 'server'")
    pair = store.pair(name)
    ca = store.load_certificate(names.CA)
    store.load_certificate(name)
    identity = pair.load()
    crl = store.load_crl(ca)
    if identity.certificate.serial_number in revocations(crl):
        raise PkiError(f"the certificate of '{name}' is revoked; first run: rtunnel pki renew {name}")
    if identity.certificate.not_valid_after_utc <= (now or datetime.now(UTC)):
        raise PkiError(f"the certificate of '{name}' has expired; first run: rtunnel pki renew {name}")
    if not signed_by(identity.certificate, ca):
        raise PkiError(f"{pair.certificate} is not from the CA {store.ca.certificate}")
    servers: tuple[str, ...] = ()
    if store.server.certificate.exists():
        servers = tuple(hosts_of(store.load_certificate(names.SERVER)))
    return Bundle(ca, crl, identity, servers)


@contextmanager
def _signing(store: Store) -> Iterator[Identity]:
    """Provide the CA, and keep other commands from using it meanwhile."""
    store.require_ca()
    with files.locked(store.directory):
        yield store.load_ca()


def _made(ca: Identity, made: Identity, days: int, now: datetime) -> Made:
    end = made.certificate.not_valid_after_utc
    return Made(ca.certificate, made.certificate, end < now.replace(microsecond=0) + timedelta(days=days))


def _check_time(ca: x509.Certificate, now: datetime) -> None:
    if ca.not_valid_after_utc <= now:
        raise PkiError(f"the CA expired on {ca.not_valid_after_utc:%Y-%m-%d}; first run: rtunnel pki renew ca")


def _server_name(hosts: Sequence[str]) -> str:
    """Return a common name for a server. It is for people only: clients check the alternative names."""
    return next((host for host in hosts if len(host) <= names.MAX_COMMON_NAME), "rtunnel server")


def _revocation(store: Store, ca: Identity, serials: Iterable[int], now: datetime) -> Draft:
    """Return the revocation list with more serial numbers on it."""
    old = store.load_crl(ca.certificate)
    revoked = {**revocations(old), **dict.fromkeys(serials, now.replace(microsecond=0))}
    number = crl_number(old) + 1 if old is not None else 1
    crl = authority.make_crl(ca, revoked, number=number, now=now)
    return Draft(store.crl, crl.public_bytes(Encoding.PEM), PUBLIC, replaces=True)
