"""The file ``authorized_clients``: who may use a host, and for what.

laptop:                             # a name, for the log and for 'rtunnel status'
  fingerprint: 2mm1c-97635-...      # what 'rtunnel id' prints on that machine
  services: [web, dns]              # without this key all; "(default)" is the service without a name
  streams: 100                      # connections at once, and flows of UDP
  bandwidth: 20Mbit                 # of all of them together, in each direction
  until: 2027-03-31                 # this day included (UTC), or a time such as 2027-03-31T18:00+02:00
phone:
  fingerprint: 16bd2-...
  services:
    web: {bandwidth: 5Mbit}         # streams, bandwidth, until, of this service alone
    dns: {}
office: {services: [web]}           # no fingerprint: the name in a certificate of --peer-ca
"*": {services: [dns]}              # every other client with such a certificate; without it they are refused
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

from rtunnel.access.amounts import bandwidth
from rtunnel.access.peers.entries import append, quoted
from rtunnel.access.peers.fingerprints import SHORT, is_of, parse_fingerprint, show_fingerprint
from rtunnel.access.peers.rights import DEFAULT, ClientRights, ServiceRights
from rtunnel.coercions import integer, shown, text
from rtunnel.config_file import in_file, keys_with_underscores, load_file
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError, PkiError
from rtunnel.pki import files
from rtunnel.pki.files import PRIVATE, Draft

NAME = "authorized_clients"
#: The name of the entry for all clients whose certificate a CA has issued.
EVERYBODY = "*"
#: Most services that one entry names, and most characters of a name.
MOST_SERVICES, MOST_NAME = 1000, 256
_MOST_ADDED = 64

_HEAD = (
    "# Clients of the WebRTC tunnel that may use this host; see the section about trust in docs/webrtc-tunnel.rst.\n"
)
_BOUNDS = ("streams", "bandwidth", "until")
_KEYS = ("fingerprint", "services", *_BOUNDS)
_streams = integer(1, 1_000_000)


@dataclass(frozen=True, slots=True)
class AuthorizedClients:
    """The content of the file.

    :ivar by_fingerprint: names and rights by the first digits of the fingerprint.
    :ivar by_name: rights by the name in a certificate.
    """

    by_fingerprint: Mapping[str, tuple[str, str, ClientRights]]
    by_name: Mapping[str, ClientRights]

    def known(self, fingerprint: str) -> tuple[str, ClientRights] | None:
        """Return name and rights of the client with that identity; None: it is not listed.

        :param fingerprint: all its digits.
        """
        found = self.by_fingerprint.get(fingerprint[:SHORT])
        return found[1:] if found is not None and is_of(found[0], fingerprint) else None

    def certified(self, name: str) -> ClientRights | None:
        """Return the rights of the client whose certificate has that name; None: it has none."""
        found = self.by_name.get(name) if name and name != EVERYBODY else None
        return found or self.by_name.get(EVERYBODY)


#: A file without entries.
NOBODY = AuthorizedClients({}, {})


def read_authorized_clients(path: Path, *, has_ca: bool = False) -> AuthorizedClients:
    """Read the file.

    :param has_ca: whether entries may do without a fingerprint, because a CA vouches for names.
    :raises ConfigError: it cannot be read, or something in it is wrong; the message says where, and the fix.
    """
    written, content = load_file(str(path))
    try:
        clients = _clients(written)
        for name in () if has_ca else clients.by_name:
            raise ConfigError(
                f"'{name}': has no fingerprint; write what 'rtunnel id' prints there, or give --peer-ca", [name]
            )
    except ConfigError as error:
        raise in_file(error, str(path), content) from error
    return clients


def add_client(path: Path, fingerprint: str, name: str, services: Iterable[str] | None) -> None:
    """Add a client. Comments and order stay. If its fingerprint is there already, nothing happens.

    :param fingerprint: its hexadecimal digits.
    :param name: what to call it, which it may have said itself: characters that cannot be printed are replaced, and if
        another client has that name, a number is added.
    :param services: those that it may use; None: all.
    :raises ConfigError: the file cannot be changed.
    """

    def entry(value: object) -> str:
        if _clients(value).known(fingerprint) is not None:
            return ""
        taken = value if isinstance(value, dict) else {}
        plain = "".join(each if each.isprintable() else "?" for each in name[:_MOST_ADDED]).strip() or "client"
        named, number = plain, 2
        while named in taken or named == EVERYBODY:
            named, number = f"{plain}-{number}", number + 1
        lines = f"{quoted(named)}:\n  fingerprint: {show_fingerprint(fingerprint)}\n"
        if services is not None:
            lines += f"  services: [{', '.join(quoted(each or DEFAULT) for each in services)}]\n"
        return lines

    append(path, _HEAD, entry, _clients)


def make_clients_file(path: Path) -> bool:
    """Make a file without clients, so that nobody is accepted but those who are added. Return whether there was none.

    :raises ConfigError: it cannot be made.
    """
    try:
        files.make_directory(path.parent)
        with files.locked(path.parent):
            if path.exists():
                return False
            files.publish([Draft(path, _HEAD.encode(), PRIVATE)])
    except (PkiError, OSError) as error:
        raise ConfigError(f"{path} cannot be made: {error}") from None
    return True


def _clients(written: object) -> AuthorizedClients:
    if written is not None and not isinstance(written, dict):
        raise ConfigError("is not a mapping; write lines such as 'laptop: {fingerprint: ..., services: [web]}'")
    by_fingerprint: dict[str, tuple[str, str, ClientRights]] = {}
    by_name: dict[str, ClientRights] = {}
    for name, entry in (written or {}).items():
        if not isinstance(name, str) or not name or not name.isprintable() or len(name) > MOST_NAME:
            raise ConfigError(f"{shown(name)} is not a name: up to {MOST_NAME} printable characters", [str(name)])
        try:
            fingerprint, rights = _entry(name, entry)
            if fingerprint is None:
                by_name[name] = rights
            elif fingerprint[:SHORT] in by_fingerprint:
                other = by_fingerprint[fingerprint[:SHORT]][1]
                raise ConfigError(f"has the fingerprint of '{other}'; keep one of the two", ["fingerprint"])
            else:
                by_fingerprint[fingerprint[:SHORT]] = fingerprint, name, rights
        except ConfigError as error:
            raise error.within(f"'{name}': ", name) from error
    return AuthorizedClients(by_fingerprint, by_name)


def _entry(name: str, entry: object) -> tuple[str | None, ClientRights]:
    values = _known_keys(entry, _KEYS)
    fingerprint = _read(values, "fingerprint", lambda value: parse_fingerprint(text(value)))
    if fingerprint is not None and name == EVERYBODY:
        raise ConfigError("key 'fingerprint': '*' stands for every client; give the entry a name", ["fingerprint"])
    services, of_service = None, {}
    if "services" in values:
        of_service = _read(values, "services", _services)
        services = frozenset(of_service)
    bounds = _bounds(values)
    own = {each: rights for each, rights in of_service.items() if rights != ServiceRights()}
    return fingerprint, ClientRights(services, bounds.streams, bounds.rate, bounds.until, own)


def _services(value: object) -> Mapping[str, ServiceRights]:
    found: dict[str, ServiceRights] = {}
    if not isinstance(value, dict):
        names = value if isinstance(value, list) else text(value).split(",")
        value = dict.fromkeys(map(text, names))
    if len(value) > MOST_SERVICES:
        raise ConfigError(f"has {len(value):,} services, and {MOST_SERVICES:,} is the most; leave the key out for all")
    for name, entry in value.items():
        service = text(name)
        try:
            found["" if service == DEFAULT else service] = _bounds(_known_keys(entry, _BOUNDS))
        except ConfigError as error:
            raise error.within(f"'{service}': ", service) from error
    return found


def _bounds(values: Mapping[str, object]) -> ServiceRights:
    rate = _read(values, "bandwidth", bandwidth)
    streams, until = _read(values, "streams", _streams), _read(values, "until", _until)
    return ServiceRights(streams, None if rate is None else rate // 8, until)


def _known_keys(entry: object, known: tuple[str, ...]) -> Mapping[str, object]:
    values = keys_with_underscores(entry)
    for key in entry if isinstance(entry, dict) else ():
        if key not in known:
            raise ConfigError(f"unknown key '{key}'{suggestion(key, known)}", [key])
        if key not in values:
            # Without a value it would mean more than the operator wants.
            raise ConfigError(f"key '{key}' has no value; write one, or leave the key out", [key])
    return values


def _read(values: Mapping[str, object], key: str, reader: Callable[[object], Any]) -> Any:
    """Return the value of a key; None if it is not there."""
    if key not in values:
        return None
    try:
        return reader(values[key])
    except ConfigError as error:
        raise error.within(f"key '{key}': ", key) from error


def _until(value: object) -> datetime:
    written = text(value)
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        raise ConfigError(f"{shown(written)} is not a day or a time; write 2027-03-31, or 2027-03-31T18:00Z") from None
    if len(written) == len("2027-03-31") and found.time() == time():
        try:
            return found.replace(tzinfo=UTC) + timedelta(days=1)
        except OverflowError:
            raise ConfigError(f"{shown(written)} is too late; leave the key out, and the right does not end") from None
    if found.tzinfo is None:
        raise ConfigError(f"{shown(written)} has no time zone; write {written}Z for UTC, or an offset such as +02:00")
    return found
