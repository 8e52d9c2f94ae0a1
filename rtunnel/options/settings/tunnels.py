"""What a client publishes: ``REMOTE_PORT:LOCAL`` on the command line, a list of mappings in the file."""

from __future__ import annotations

from collections.abc import Sequence

from rtunnel.addresses import DialAddress
from rtunnel.coercions import dial_address, integer, shown
from rtunnel.errors import ConfigError
from rtunnel.options.settings.entries import Entry, read_entries
from rtunnel.options.settings.sources import Rank, Resolved
from rtunnel.reverse.settings import TunnelSettings

_NAME_LENGTH = 64

_remote_port = integer(0, 65535)


def tunnels(value: object) -> tuple[TunnelSettings, ...]:
    """Read the tunnels of a client, such as ``8080:80,9090:unix:/x``.

    :raises ConfigError: an entry is wrong; the message says which.
    """
    keys = ("name", "local", "remote_port")
    return read_entries(value, _from_text, _from_mapping, keys, "{local: 127.0.0.1:80, remote_port: 8080}")


def _from_text(written: str) -> TunnelSettings:
    port, colon, local = written.strip().partition(":")
    if not colon or not local or not port.isdigit():
        raise ConfigError(f"'{written}' is not REMOTE_PORT:LOCAL; write 8080:127.0.0.1:80")
    return TunnelSettings(_remote_port(port), DialAddress.parse(local))


def _from_mapping(entry: Entry) -> TunnelSettings:
    entry.require("local", "the service's address, such as local: 127.0.0.1:80")
    name = entry.read("name", _name, "")
    local = entry.read("local", dial_address)
    return TunnelSettings(entry.read("remote_port", _remote_port, 0), local, name)


def _name(name: object) -> str:
    if not isinstance(name, str) or not name.isprintable() or len(name) > _NAME_LENGTH:
        raise ConfigError(f"{shown(name)} is not text of up to {_NAME_LENGTH} characters")
    return name


def decide_tunnels(resolved: Resolved) -> tuple[TunnelSettings, ...]:
    """Return the tunnels of a client, in the order of their numbers.

    ``local`` and ``remote-port`` are one tunnel, which comes first. If it and the list of tunnels come from different
    sources, the one from the stronger source replaces the other.

    :raises ConfigError: there are no tunnels, or two want the same port or name.
    """
    pair = max((resolved.sources["local"], resolved.sources["remote-port"]), key=lambda source: source.rank)
    listed = resolved.sources["tunnel"]
    found: list[TunnelSettings] = []
    if pair.rank >= listed.rank and pair.rank > Rank.DEFAULT:
        if resolved.values["local"] is None:
            raise resolved.error("remote-port", "has no effect without a local service; add --local 127.0.0.1:80")
        found.append(TunnelSettings(resolved.values["remote-port"], resolved.values["local"]))
    if listed.rank >= pair.rank:
        found.extend(resolved.values["tunnel"])
    if not found:
        raise ConfigError("nothing to publish: --tunnel or --local is missing; write for example --tunnel 8080:80")
    _check_unique(found, resolved)
    return tuple(found)


def _check_unique(found: Sequence[TunnelSettings], resolved: Resolved) -> None:
    ports: set[int] = set()
    names: set[str] = set()
    for tunnel in found:
        if tunnel.remote_port in ports:
            what = f"remote port {tunnel.remote_port}" if tunnel.remote_port else "the server's shared port (0)"
            raise resolved.error("tunnel", f"two tunnels want {what}; each needs a port of its own")
        if tunnel.name and tunnel.name in names:
            raise resolved.error("tunnel", f"two tunnels are named '{tunnel.name}'; give each a name of its own")
        ports.add(tunnel.remote_port)
        names.add(tunnel.name)
