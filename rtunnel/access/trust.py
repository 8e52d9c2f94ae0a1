"""Whom an end of the WebRTC tunnel accepts: what it says of an identity that the other end has proved to have.

Facts go in, a :class:`Verdict` comes out. None is kept, and files are read again when they change, so whoever is judged
once a second loses what he may no longer have.

An end is *open* as long as nobody has told it whom to trust: then it accepts everybody, as the reference programs do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from cryptography import x509
from twisted.logger import Logger

from rtunnel.access.peers.authorities import Authorities
from rtunnel.access.peers.authorized_clients import NOBODY, AuthorizedClients, read_authorized_clients
from rtunnel.access.peers.fingerprints import any_is_of, show_fingerprint
from rtunnel.access.peers.known_hosts import NO_HOSTS, KnownHosts, add_host, read_known_hosts
from rtunnel.access.peers.rights import EVERYTHING, ClientRights, ServiceRights, show_time
from rtunnel.errors import Code, ConfigError, one_line
from rtunnel.pki.certificates import Kind, common_names, hosts_of
from rtunnel.tls.identity import peer_name
from rtunnel.upkeep.watched_files import WatchedFiles

__all__ = [
    "ClientRights",
    "ClientTrust",
    "HostTrust",
    "OpenTrust",
    "PeerIdentity",
    "ServiceRights",
    "Trust",
    "Verdict",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who is at the other end, as its TLS handshake has proved.

    :ivar certificate: whose key it has.
    :ivar fingerprint: the SHA-256 of the certificate, 64 hexadecimal digits.
    :ivar issuers: the other certificates that it has shown. Nobody has verified them.
    :ivar peer_id: of a host, its ID at the signaling server; empty for a client.
    """

    certificate: x509.Certificate
    fingerprint: str
    issuers: tuple[x509.Certificate, ...] = ()
    peer_id: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the other end is accepted, and for what.

    :ivar refusal: why not, as a sentence for the logs of both ends; empty: it is accepted.
    :ivar code: of a refusal.
    :ivar name: what to call the other end in log lines and in ``rtunnel status``.
    :ivar rights: what it may do.
    :ivar party: whom all connections with the same one belong to; empty: to this identity alone. Names of certificates
        and names of entries can be the same, so the name does not say it.
    """

    refusal: str = ""
    code: Code = Code.UNAUTHORIZED
    name: str = ""
    rights: ClientRights = EVERYTHING
    party: str = ""


class Trust(Protocol):
    """Whom an end accepts."""

    @property
    def is_closed(self) -> bool:
        """Whether anybody at all is refused, and so each peer that cannot prove who it is."""

    def judge(self, peer: PeerIdentity) -> Verdict:
        """Return whether *peer* is accepted. Call it after the handshake, and then once a second.

        Files that have changed are read again. It does not raise because of them.
        """


class OpenTrust:
    """Accepts everybody."""

    is_closed = False

    def judge(self, peer: PeerIdentity) -> Verdict:
        """See :class:`Trust`."""
        return Verdict(name=show_fingerprint(peer.fingerprint))


class _Listed(WatchedFiles[T | None], Generic[T]):
    """The content of a file, which need not exist as long as nobody has named it.

    :param nothing: what counts if the file appears, and cannot be used: whoever writes it wants to have a say in it.
    :param is_named: whether it must exist.
    """

    log = Logger()

    def __init__(self, path: Path, read: Callable[[Path], T], nothing: T, *, is_named: bool) -> None:
        self.path = path
        self._nothing = nothing
        self._must_exist = is_named
        self._read_file = read
        super().__init__((path,), self._content)

    def _content(self) -> T | None:
        if not self._must_exist and not _is_there(self.path):
            return None
        found = self._read_file(self.path)
        # It is not open again because somebody has removed the file.
        self._must_exist = True
        return found

    def look(self) -> T | None:
        """Return the content as it is now; if it cannot be used, that of before; None: there has never been a file."""
        if self.now is None and _is_there(self.path):
            self._must_exist = True
            self.now = self._nothing
        _look(self, self.path, self.log)
        return self.now


def _look(files: WatchedFiles[T], path: Path, log: Logger) -> None:
    try:
        if files.refresh():
            log.info("{path} is read again", path=path)
    except ConfigError as error:
        log.warn("{error}; what was read before counts until that is mended", error=error)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # In a directory that this process may not enter, it has never written anything.
        return False


class HostTrust:
    """Which clients a host accepts.

    :param clients: the file ``authorized_clients``, if the operator has named one.
    :param ca: the file of the CAs whose clients are accepted.
    :param default: the file that counts if none is named, and if it exists.
    :raises ConfigError: a file cannot be used.
    """

    log = Logger()

    def __init__(self, clients: Path | None = None, ca: Path | None = None, default: Path | None = None) -> None:
        def read(path: Path) -> AuthorizedClients:
            return read_authorized_clients(path, has_ca=ca is not None)

        path = clients or default
        self._clients = None if path is None else _Listed(path, read, NOBODY, is_named=clients is not None)
        self._authorities = None if ca is None else Authorities(ca)
        self._ca = ca

    @property
    def clients_file(self) -> Path | None:
        """Where a client is to be added that is invited."""
        return None if self._clients is None else self._clients.path

    @property
    def is_closed(self) -> bool:
        """See :class:`Trust`."""
        return self._authorities is not None or (self._clients is not None and self._clients.look() is not None)

    def judge(self, peer: PeerIdentity) -> Verdict:
        """See :class:`Trust`."""
        clients = None if self._clients is None else self._clients.look()
        found: tuple[str, ClientRights] | str | None = None
        party = ""
        if clients is not None:
            found = clients.known(peer.fingerprint)
        short = show_fingerprint(peer.fingerprint)
        if self._authorities is not None:
            assert self._ca is not None
            _look(self._authorities, self._ca, self.log)
            if self._authorities.is_revoked(peer.certificate):
                return Verdict(f"the client's certificate is revoked (fingerprint {short})", name=short)
            if found is None:
                found = self._certified(peer, clients)
                party = f"certificate {name}" if (name := peer_name(peer.certificate)) else ""
        elif clients is None:
            return Verdict(name=short)
        if isinstance(found, str):
            return Verdict(found, name=short)
        if found is None:
            return Verdict(
                f"the host does not know this client: its fingerprint, {short}, is not in {CLIENTS_FILE}", name=short
            )
        name, rights = found
        if rights.until is not None and datetime.now(UTC) >= rights.until:
            return Verdict(f"the rights of the client '{name}' ended at {show_time(rights.until)}", name=name)
        return Verdict(name=name, rights=rights, party=party)

    def _certified(self, peer: PeerIdentity, clients: AuthorizedClients | None) -> tuple[str, ClientRights] | str:
        """Return name and rights of a client by its certificate, or why it has none."""
        assert self._authorities is not None
        if why := self._authorities.why_not(peer.certificate, peer.issuers, Kind.CLIENT):
            return f"the client's certificate is refused: {why}"
        name = peer_name(peer.certificate)
        rights = EVERYTHING if clients is None else clients.certified(name)
        if rights is None:
            who = f"'{name}', the name in its certificate," if name else "a certificate without a usable name"
            return f"the host does not know this client: {who} is not in {CLIENTS_FILE}"
        return name or show_fingerprint(peer.fingerprint), rights


class ClientTrust:
    """Which hosts a client accepts.

    :param pins: fingerprints, one of which the host must have, whatever its ID is; empty: see the others.
    :param known: the file ``known_hosts``, if the operator has named one.
    :param ca: the file of the CAs that must have issued the host's certificate; if given, nothing else counts.
    :param default: the file that counts if none is named, and if it has the host.
    :param trusts_first_use: whether a host that is not in the file is added to it.
    :param host_name: the name that the host's certificate must have with *ca*; empty: the host's ID.
    :raises ConfigError: a file cannot be used.
    """

    log = Logger()

    def __init__(
        self,
        pins: tuple[str, ...] = (),
        known: Path | None = None,
        ca: Path | None = None,
        default: Path | None = None,
        *,
        trusts_first_use: bool = False,
        host_name: str = "",
        host_id: str = "",
    ) -> None:
        self._pins = pins
        path = None if pins or ca is not None else known or default
        must_exist = known is not None and not trusts_first_use
        self._known = None if path is None else _Listed(path, read_known_hosts, NO_HOSTS, is_named=must_exist)
        self._authorities = None if ca is None else Authorities(ca)
        self._ca = ca
        self._is_named = known is not None or trusts_first_use
        self._trusts_first_use = trusts_first_use
        self._host_name = host_name
        self._host_id = host_id

    @property
    def is_closed(self) -> bool:
        """See :class:`Trust`."""
        if self._pins or self._authorities is not None or self._is_named:
            return True
        hosts = self._hosts()
        return hosts is NO_HOSTS or self._host_id in hosts

    def _hosts(self) -> KnownHosts:
        hosts: KnownHosts | None = None if self._known is None else self._known.look()
        return {} if hosts is None else hosts

    def judge(self, peer: PeerIdentity) -> Verdict:
        """See :class:`Trust`."""
        short = show_fingerprint(peer.fingerprint)
        if self._pins:
            if any_is_of(self._pins, peer.fingerprint):
                return Verdict(name=peer.peer_id)
            return Verdict(_CHANGED.format(short=short, where=PIN_OPTION), name=short)
        if self._authorities is not None:
            why = self._why_not_certified(peer)
            return Verdict(f"the host's certificate is refused: {why}" if why else "", name=peer.peer_id)
        hosts = self._hosts()
        known = hosts.get(peer.peer_id)
        if known is None and hosts is not NO_HOSTS:
            return self._meet(peer, short)
        assert self._known is not None
        if known is None:
            return Verdict(f"{self._known.path} cannot be used, so no host is known here; the log says why", name=short)
        if any_is_of(known, peer.fingerprint):
            return Verdict(name=peer.peer_id)
        return Verdict(_CHANGED.format(short=short, where=self._known.path), name=short)

    def _meet(self, peer: PeerIdentity, short: str) -> Verdict:
        """Judge a host that is not known."""
        if not self._is_named:
            return Verdict(name=short)
        assert self._known is not None
        path = self._known.path
        if not self._trusts_first_use:
            return Verdict(_UNKNOWN.format(short=short, path=path), name=short)
        try:
            add_host(path, peer.peer_id, peer.fingerprint)
        except ConfigError as error:
            return Verdict(f"the host is not known, and cannot be remembered: {error}", name=short)
        self.log.warn(
            "the host '{id}' is trusted at first use: its fingerprint, {short}, is now in {path}; compare it with what "
            "'rtunnel id' prints there",
            id=peer.peer_id,
            short=short,
            path=path,
        )
        return Verdict(name=peer.peer_id)

    def _why_not_certified(self, peer: PeerIdentity) -> str:
        assert self._authorities is not None
        assert self._ca is not None
        _look(self._authorities, self._ca, self.log)
        if why := self._authorities.why_not(peer.certificate, peer.issuers, Kind.HOST):
            return why
        wanted = self._host_name or peer.peer_id
        try:
            names = [*common_names(peer.certificate), *hosts_of(peer.certificate)]
        except ValueError as error:
            return f"its names cannot be read: {error}"
        if wanted.lower() in (name.lower() for name in names):
            return ""
        return f"it is not for '{wanted}', but for {_shown(names)}; see {NAME_OPTION}"


#: What texts call the file and the options.
CLIENTS_FILE, PIN_OPTION, NAME_OPTION = "authorized_clients", "--host-key", "--host-name"
#: Most characters of a name in a certificate that are shown.
MOST_SHOWN = 100

_CHANGED = (
    "THE HOST HAS ANOTHER IDENTITY THAN THE ONE THAT IS KNOWN HERE. Somebody may sit in between, or the host has a new "
    "key. Its fingerprint is now {short}; compare it with what 'rtunnel id' prints there, and only if they are the "
    "same, change it in {where}"
)
_UNKNOWN = (
    "the host is not known here. Its fingerprint is {short}; compare it with what 'rtunnel id' prints there, and if "
    "they are the same, add it to {path}, or write --host-key {short}"
)


def _shown(names: list[str]) -> str:
    # Whoever has made the certificate has chosen them.
    return ", ".join(f"'{one_line(name[:MOST_SHOWN])}'" for name in names[:4]) or "nobody"
