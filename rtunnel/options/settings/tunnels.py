"""What a client publishes: ``REMOTE_PORT:LOCAL`` on the command line, a list of mappings in the file."""

from __future__ import annotations

from collections.abc import Sequence

from rtunnel.addresses import DialAddress
from rtunnel.coercions import dial_address, integer, shown
from rtunnel.config_file import keys_with_underscores
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError
from rtunnel.options.settings.sources import Rank, Resolved
from rtunnel.reverse.settings import TunnelSettings

_KEYS = ("name", "local", "remote_port")
_EXAMPLE = "8080:127.0.0.1:80"
_NAME_LENGTH = 64

_remote_port = integer(0, 65535)


def tunnels(value: object) -> tuple[TunnelSettings, ...]:
    """Read ``8080:80,9090:unix:/x`` from the environment, a list of such texts from flags, or a list from the file.

    :raises ConfigError: an entry is wrong; the message says which.
    """
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list):
        raise ConfigError(f"{shown(value)} is not a list; write '- {{local: 127.0.0.1:80, remote_port: 8080}}' in it")
    return tuple(
        _from_text(entry) if isinstance(entry, str) else _from_mapping(entry, number)
        for number, entry in enumerate(value, 1)
    )


def _from_text(text: str) -> TunnelSettings:
    port, colon, local = text.strip().partition(":")
    if not colon or not local or not port.isdigit():
        raise ConfigError(f"'{text}' is not REMOTE_PORT:LOCAL; write {_EXAMPLE}")
    try:
        return TunnelSettings(_remote_port(port), DialAddress.parse(local))
    except ConfigError as error:
        raise ConfigError(f"in '{text}', {error}") from error


def _from_mapping(entry: object, number: int) -> TunnelSettings:
    where = f"entry {number}"
    values = keys_with_underscores(entry, where)
    for key in values:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key '{key}'{suggestion(key, _KEYS)}")
    if "local" not in values:
        raise ConfigError(f"{where}: has no key 'local'; write the service's address, such as local: 127.0.0.1:80")
    name = values.get("name", "")
    if not isinstance(name, str) or not name.isprintable() or len(name) > _NAME_LENGTH:
        raise ConfigError(f"{where}: key 'name': {shown(name)} is not a text of up to {_NAME_LENGTH} letters")
    try:
        key = "local"
        local = dial_address(values[key])
        key = "remote_port"
        return TunnelSettings(_remote_port(values.get(key, 0)), local, name)
    except ConfigError as error:
        raise ConfigError(f"{where}: key '{key}': {error}") from error


def decide_tunnels(resolved: Resolved) -> tuple[TunnelSettings, ...]:
    """The tunnels of a client, in the order of their numbers.

    ``local`` and ``remote-port`` are one tunnel, which comes first. If that and the list of tunnels come from different
    sources, the one from the higher source replaces the other.

    :raises ConfigError: there are none, or two want the same port.
    """
    pair = max((resolved.sources["local"], resolved.sources["remote-port"]), key=lambda source: source.rank)
    listed = resolved.sources["tunnel"]
    found: list[TunnelSettings] = []
    if pair.rank >= listed.rank and pair.rank > Rank.DEFAULT:
        if resolved.values["local"] is None:
            raise resolved.error("remote-port", "says nothing without a local service; add --local 127.0.0.1:80")
        found.append(TunnelSettings(resolved.values["remote-port"], resolved.values["local"]))
    if listed.rank >= pair.rank:
        found.extend(resolved.values["tunnel"])
    if not found:
        raise ConfigError(
            "nothing to publish: --local or --tunnel is missing; write for example "
            "--server 1.2.3.4:7000 --local 127.0.0.1:80 --remote-port 8080"
        )
    _check_twice(found, resolved)
    return tuple(found)


def _check_twice(found: Sequence[TunnelSettings], resolved: Resolved) -> None:
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
