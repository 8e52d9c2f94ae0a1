"""What a client publishes: ``--tunnel REMOTE_PORT:LOCAL``, ``--publish KIND:PORT=LOCAL``, and lists in the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from rtunnel.access.rules import KEYS, read_rules
from rtunnel.coercions import integer, service_address, shown, text
from rtunnel.errors import ConfigError
from rtunnel.options.settings.acme import end_of_tls
from rtunnel.options.settings.entries import Entry, read_entries
from rtunnel.options.settings.proxy_protocol import with_proxy_protocol
from rtunnel.options.settings.published import AT_MOST, MAX_PORTS, is_published, published
from rtunnel.options.settings.sources import Rank, Resolved
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.services.health_settings import KEYS as HEALTH_KEYS, read_health

_NAME_LENGTH = 64
_TOO_MANY = f"there are more than {MAX_PORTS:,} ports; {AT_MOST}: publish fewer, or start another client"

_remote_port = integer(0, 65535)
SourceT = TypeVar("SourceT")


def tunnels(value: object) -> tuple[TunnelSettings, ...]:
    """Read the tunnels of a client, such as ``8080:80,9090:unix:/x``. An entry may also be one of :func:`publish`.

    :raises ConfigError: an entry is wrong; the message says which.
    """
    return _read("tunnel", value, _from_text, "{local: 127.0.0.1:80, remote_port: 8080}")


def publish(value: object) -> tuple[TunnelSettings, ...]:
    """Read what a client publishes, such as ``tcp:8080=80,udp:53=:53``.

    :raises ConfigError: an entry is wrong; the message says which.
    """
    return _read("publish", value, published, "tcp:8080=127.0.0.1:80")


def _read(
    setting: str, value: object, from_text: Callable[[str], tuple[TunnelSettings, ...]], example: str
) -> tuple[TunnelSettings, ...]:
    count = 0

    def counted(read: Callable[[SourceT], tuple[TunnelSettings, ...]], source: SourceT) -> tuple[TunnelSettings, ...]:
        nonlocal count
        found = read(source)
        count += len(found)
        if count > MAX_PORTS:
            raise ConfigError(_TOO_MANY)
        return found

    keys = ("name", "local", "remote_port", "publish", "tls", "proxy_protocol", *HEALTH_KEYS, *KEYS)
    entries = read_entries(value, partial(counted, from_text), partial(counted, _from_mapping), keys, example)
    return tuple(replace(each, origin=(setting, index)) for index, found in enumerate(entries) for each in found)


def _from_text(written: str) -> tuple[TunnelSettings, ...]:
    if is_published(written):
        return published(written)
    port, colon, local = written.strip().partition(":")
    if not colon or not local or not port.isdigit():
        raise ConfigError(f"'{written}' is not REMOTE_PORT:LOCAL; write 8080:127.0.0.1:80")
    return (TunnelSettings(_remote_port(port), service_address(local)),)


def _from_mapping(entry: Entry) -> tuple[TunnelSettings, ...]:
    found = _with_health(entry, with_proxy_protocol(entry, _tunnels_of(entry)))
    if found[0].host:
        tls = end_of_tls(entry, found[0])
        rules = read_rules(entry.only(KEYS), found[0].protocol, ends_tls=tls != "passthrough")
        return (replace(found[0], rules=rules, tls=tls),)
    if "tls" in entry:
        raise entry.error("tls", "is for an entry with 'publish: https:NAME=LOCAL'; leave it out")
    rules = read_rules(entry.only(KEYS), found[0].protocol)
    return tuple(replace(tunnel, rules=rules) for tunnel in found)


def _tunnels_of(entry: Entry) -> tuple[TunnelSettings, ...]:
    name = entry.read("name", _name, "")
    if "publish" in entry:
        for key in ("local", "remote_port"):
            if key in entry:
                raise entry.error(key, "is for an entry without 'publish', which has port and service; leave it out")
        return entry.read("publish", lambda written: published(text(written), name))
    entry.require("local", "the service's address, such as local: 127.0.0.1:80")
    local = entry.read("local", service_address)
    return (TunnelSettings(entry.read("remote_port", _remote_port, 0), local, name),)


def _with_health(entry: Entry, tunnels: tuple[TunnelSettings, ...]) -> tuple[TunnelSettings, ...]:
    health = read_health(entry.only(HEALTH_KEYS), tunnels[0].protocol, tunnels[0].host)
    if health is not None and tunnels[0].local.directory is not None:
        raise entry.error("health_check", "is not for files:, which the client serves itself; leave it out")
    return tuple(replace(tunnel, health=health) for tunnel in tunnels)


def _name(name: object) -> str:
    if not isinstance(name, str) or not name.isprintable() or len(name) > _NAME_LENGTH:
        raise ConfigError(f"{shown(name)} is not text of up to {_NAME_LENGTH} characters")
    return name


def decide_tunnels(resolved: Resolved, *, may_be_none: bool = False) -> tuple[TunnelSettings, ...]:
    """Return the tunnels of a client, in the order of their numbers.

    ``local`` and ``remote-port`` are one tunnel, which comes first; then come those of ``tunnel`` and of ``publish``.
    If these come from different sources, those from the strongest source replace the others. Those for TCP come first,
    as a reference server serves only the first tunnel, and nothing else.

    :param may_be_none: whether there may be no tunnels.
    :raises ConfigError: there are no tunnels, there are too many, or two want the same port or name.
    """
    pair = max((resolved.sources["local"], resolved.sources["remote-port"]), key=lambda source: source.rank)
    lists = ("tunnel", "publish")
    strongest = max(pair.rank, *(resolved.sources[name].rank for name in lists))
    found: list[TunnelSettings] = []
    if pair.rank == strongest > Rank.DEFAULT:
        if resolved.values["local"] is None:
            raise resolved.error("remote-port", "has no effect without a local service; add --local 127.0.0.1:80")
        found.append(TunnelSettings(resolved.values["remote-port"], resolved.values["local"], origin=("local",)))
    for name in lists:
        if resolved.sources[name].rank == strongest:
            found.extend(resolved.values[name])
    if not found and not may_be_none:
        raise ConfigError(
            "nothing to publish: --tunnel, --publish or --local is missing; write for example --tunnel 8080:80"
        )
    if len(found) > MAX_PORTS:
        raise at_origin(ConfigError(_TOO_MANY, found[-1].origin), resolved)
    try:
        _check_unique(found)
    except ConfigError as error:
        raise at_origin(error, resolved) from error
    return tuple(sorted(found, key=lambda tunnel: tunnel.protocol != "tcp"))


def at_origin(error: ConfigError, resolved: Resolved) -> ConfigError:
    """Return an error about a tunnel as one that says where the tunnel is written, if *error* leads there."""
    if not error.at:
        return error
    setting, *at = error.at
    return resolved.error(str(setting), str(error), at)


def _check_unique(found: Sequence[TunnelSettings]) -> None:
    places: set[tuple[str, int, str, str]] = set()
    names: set[str] = set()
    for tunnel in found:
        if tunnel.place in places and tunnel.host:
            raise ConfigError(f"two tunnels want {tunnel.shown_place}; a request goes to one of them", tunnel.origin)
        if tunnel.place in places:
            what = f"remote port {tunnel.remote_port}" if tunnel.remote_port else "the server's shared port (0)"
            of_udp = " for UDP" if tunnel.protocol == "udp" else ""
            raise ConfigError(f"two tunnels want {what}{of_udp}; each needs a port of its own", tunnel.origin)
        if tunnel.name and tunnel.name in names:
            raise ConfigError(f"two tunnels are named '{tunnel.name}'; give each a name of its own", tunnel.origin)
        places.add(tunnel.place)
        names.add(tunnel.name)
