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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rtunnel.access.amounts import Amounts, amount, bandwidth
from rtunnel.access.rules import LIMITS, Rules, read_rules
from rtunnel.access.tokens import Token, add_token
from rtunnel.addresses import PortRanges
from rtunnel.coercions import boolean, host_patterns, integer, port_ranges
from rtunnel.config_file import keys_with_underscores, load_file
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
    rights: dict[str, Rights] = {}
    tokens: dict[bytes, Token] = {}
    for name, entry in _entries(path).items():
        where = f"{path}: '{name}'"
        values = keys_with_underscores(entry, where)
        for name_of_key in values:
            key = name_of_key.replace("_", "-")
            if key not in _KEYS:
                raise ConfigError(f"{where}: unknown key '{key}'{suggestion(key, _KEYS)}")
        key = ""
        try:
            if "token" in values:
                key = "token"
                if name == EVERYBODY:
                    raise ConfigError("cannot be everybody's; give each client its own")
                add_token(tokens, name, values[key])
            key = "ports"
            ports = port_ranges(values[key]) if key in values else None
            key = "hosts"
            hosts = host_patterns(values[key]) if key in values else None
            key = "tunnels"
            tunnels = _count(values[key]) if key in values else None
            key = "streams"
            streams = _count(values[key]) if key in values else None
            key = "links"
            links = _count(values[key]) if key in values else None
            key = "shared"
            shared = boolean(values[key]) if key in values else True
            amounts = {}
            for key in _AMOUNTS.keys() & values.keys():
                amounts[key] = _AMOUNTS[key](values[key])
        except ConfigError as error:
            raise ConfigError(f"{where}: key '{key.replace('_', '-')}': {error}") from error
        try:
            limits = read_rules({key: values[key] for key in _LIMITS if key in values}, protocol="")
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        rights[name] = Rights(ports, tunnels, streams, shared, links, hosts, limits, Amounts(**amounts))
    return Clients(rights, tuple(tokens.values()))


def _entries(path: Path) -> Mapping[str, object]:
    content = load_file(str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is not a mapping; write lines such as 'laptop: {{ports: 8000-8010}}'")
    for name in content:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{path}: {name!r} is not a name; put it in quotes")
    return content
