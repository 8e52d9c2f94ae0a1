"""The file ``known_hosts``: which identity a client expects of each host, by the host's ID.

    myhost: 2mm1c-97635-krmv4-pbw09-e2ccz-89k91      # or a list, while a host gets a new identity
    "an ID with spaces": [2mm1c-..., 16bd2-...]

An ID is a name at a signaling server. A client that uses several servers, where one ID means different hosts, needs a
file for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from rtunnel.access.peers.entries import append, quoted
from rtunnel.access.peers.fingerprints import any_is_of, parse_fingerprint, show_fingerprint
from rtunnel.coercions import pinpointed, shown, text
from rtunnel.config_file import in_file, load_file
from rtunnel.errors import ConfigError

NAME = "known_hosts"
#: Most fingerprints of one host.
MOST = 16

_HEAD = (
    "# Hosts of the WebRTC tunnel that this client trusts: each ID with its fingerprint ('rtunnel id' on the host).\n"
)

KnownHosts = Mapping[str, tuple[str, ...]]
#: What is known while a file is there that has never been one that can be used.
NO_HOSTS: KnownHosts = MappingProxyType({})


def read_known_hosts(path: Path) -> KnownHosts:
    """Return the fingerprints of each host, by its ID.

    :raises ConfigError: the file cannot be read, or something in it is wrong; the message says where.
    """
    written, content = load_file(str(path))
    try:
        return _hosts(written)
    except ConfigError as error:
        raise in_file(error, str(path), content) from error


def add_host(path: Path, host_id: str, fingerprint: str) -> None:
    """Add a host, or one more identity of a host. Comments and order stay.

    :param fingerprint: its hexadecimal digits.
    :raises ConfigError: the file cannot be changed, or the host is known by another identity.
    """

    def entry(value: object) -> str:
        known = _hosts(value).get(host_id)
        if known is None:
            return f"{quoted(host_id)}: {show_fingerprint(fingerprint)}\n"
        if any_is_of(known, fingerprint):
            return ""
        raise ConfigError(f"{path} has another fingerprint of host {shown(host_id)}; if that is over, remove its line")

    append(path, _HEAD, entry, _hosts)


def _hosts(written: object) -> KnownHosts:
    if written is None:
        return {}
    if not isinstance(written, dict):
        raise ConfigError("is not a mapping; write lines such as 'myhost: FINGERPRINT'")
    found = {}
    for host, value in written.items():
        if not isinstance(host, str) or not host:
            raise ConfigError(f"{host!r} is not an ID; put it in quotes", [str(host)])
        try:
            found[host] = _fingerprints(value)
        except ConfigError as error:
            raise pinpointed(error, _fingerprints, value).within(f"{shown(host)}: ", host) from error
    return found


def _fingerprints(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError("has no fingerprint; write what 'rtunnel id' prints on the host")
    if len(values) > MOST:
        raise ConfigError(f"has {len(values):,} fingerprints, and {MOST} is the most")
    if None in values:
        raise ConfigError("has no fingerprint; write what 'rtunnel id' prints on the host")
    return tuple(parse_fingerprint(text(each)) for each in values)
