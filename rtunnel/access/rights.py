"""The clients file: what each client may do at the server.

The file is a mapping from names to rights::

    laptop:                     # the common name of a certificate
      ports: 8000-8010,9443     # or a list; without this key all that --allow-ports allows
      hosts: [app.example.org, "*.dev.example.org"]     # host names; without this key all
      tunnels: 2
      streams: 100
      links: 2
      bandwidth: 100Mbit        # of all its visitors together, in each direction
      visitor-bandwidth: 10Mbit # of one visitor
      quota: 500GB              # a month, in both directions together
      shared: false             # may it serve the shared public port; true without this key
      deny: 192.0.2.0/24        # which visitors may come to each of its tunnels, and how often: in addition to the ...
      max-connections: 20       # ... rules of the tunnel, and with the same keys, see rtunnel.access.rules.LIMITS
    phone:
      token: 4f7a...            # identifies this client on a link without a certificate
    "*": {ports: none}          # every other client; without this entry the others are turned away

A client whose name has no mapping may do all that the server's options allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtunnel.access.amounts import Amounts, amount, bandwidth
from rtunnel.access.rules import LIMITS, Rules, read_rules
from rtunnel.access.tokens import Token, add_token
from rtunnel.addresses import PortRanges
from rtunnel.coercions import boolean, host_patterns, integer, pinpointed, port_ranges
from rtunnel.config_file import in_file, keys_with_underscores, load_file
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError

#: The name of the entry for all clients without an entry of their own.
EVERYBODY = "*"
_MANY = 1_000_000
_AMOUNTS = {"bandwidth": bandwidth, "visitor_bandwidth": bandwidth, "quota": amount}
_KEYS = (
    "ports",
    "hosts",
    "tunnels",
    "streams",
    "links",
    "shared",
    "token",
    *LIMITS,
    "bandwidth",
    "visitor-bandwidth",
    "quota",
)
_LIMITS = tuple(key.replace("-", "_") for key in LIMITS)

_count = integer(0, _MANY)
_READERS: Mapping[str, Callable[[object], object]] = {
    "ports": port_ranges,
    "hosts": host_patterns,
    "tunnels": _count,
    "streams": _count,
    "links": _count,
    "shared": boolean,
    **_AMOUNTS,
}


@dataclass(frozen=True, slots=True)
class Rights:
    """What one client may do. None means: as much as the server's options allow.

    :ivar ports: the public ports that it may ask for.
    :ivar tunnels: how many tunnels it may have at once, over all its links.
    :ivar streams: how many visitors it may serve at once, over all its links.
    :ivar shared: whether it may serve the shared public port.
    :ivar hosts: the host names that it may ask for, see :func:`rtunnel.host_names.host_pattern`.
    :ivar links: how many links it may have at once; of a client without a name, how many its address may have.
    :ivar limits: what its visitors may do at each of its tunnels, besides the rules that the client gives them.
    :ivar amounts: how much all its tunnels together may carry.
    """

    ports: PortRanges | None = None
    tunnels: int | None = None
    streams: int | None = None
    shared: bool = True
    links: int | None = None
    hosts: tuple[str, ...] | None = None
    limits: Rules = field(default_factory=Rules)
    amounts: Amounts = field(default_factory=Amounts)


@dataclass(frozen=True, slots=True)
class Clients:
    """The content of a clients file."""

    rights: Mapping[str, Rights]
    tokens: Sequence[Token]

    def rights_of(self, name: str) -> Rights | None:
        """Return what the client *name* may do, or None if it may not use the server."""
        found = self.rights.get(name) if name and name != EVERYBODY else None
        return found or self.rights.get(EVERYBODY)


def read_clients(path: Path) -> Clients:
    """Read a clients file.

    :raises ConfigError: it cannot be read, or something in it is wrong; the message says where.
    """
    written, content = load_file(str(path))
    rights: dict[str, Rights] = {}
    tokens: dict[bytes, Token] = {}
    try:
        for name, entry in _entries(written).items():
            try:
                rights[name] = _rights(name, entry, tokens)
            except ConfigError as error:
                raise error.within(f"'{name}': ", name) from error
    except ConfigError as error:
        raise in_file(error, str(path), content) from error
    return Clients(rights, tuple(tokens.values()))


def _entries(written: object) -> Mapping[str, object]:
    if written is None:
        return {}
    if not isinstance(written, dict):
        raise ConfigError("is not a mapping; write lines such as 'laptop: {ports: 8000-8010}'")
    for name in written:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{name!r} is not a name; put it in quotes", [str(name)])
    return written


def _rights(name: str, entry: object, tokens: dict[bytes, Token]) -> Rights:
    """Read the rights of one client, and add its token to those of the others."""
    values = keys_with_underscores(entry)
    found: dict[str, Any] = {}
    for key, value in values.items():
        shown = key.replace("_", "-")
        if shown not in _KEYS:
            raise ConfigError(f"unknown key '{shown}'{suggestion(shown, _KEYS)}", [key])
        reader = _READERS.get(key)
        try:
            if reader is not None:
                found[key] = reader(value)
            elif key == "token" and name == EVERYBODY:
                raise ConfigError("cannot be everybody's; give each client its own")
            elif key == "token":
                add_token(tokens, name, value)
        except ConfigError as error:
            where = error if reader is None else pinpointed(error, reader, value)
            raise where.within(f"key '{shown}': ", key) from error
    amounts = Amounts(**{key: found.pop(key) for key in _AMOUNTS if key in found})
    limits = read_rules({key: values[key] for key in _LIMITS if key in values}, protocol="")
    return Rights(**found, limits=limits, amounts=amounts)
