"""What a host offers and a client listens for.

    --service NAME=ADDRESS     web=127.0.0.1:80   app=unix:/run/app.sock   dns=udp:127.0.0.1:53
    --forward ADDRESS=NAME     :8080=web          udp:127.0.0.1:5353=dns   :2222=              (the default service)

``--remote`` and ``--local`` are the default service, the one without a name, of the kind that ``--protocol`` says.
In the file ``host.services`` and ``client.forwards`` are lists of such texts, or of mappings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.coercions import choice, shown, text
from rtunnel.config_file import keys_with_underscores
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError
from rtunnel.options.settings.rtc_coercions import udp_address
from rtunnel.options.settings.sources import Rank, Resolved
from rtunnel.rtc.settings import ForwardSettings, ServiceSettings, UdpAddress

_UDP = "udp:"
_NAME_LENGTH = 64

_protocol = choice("tcp", "udp")
EntryT = TypeVar("EntryT")


def dial(written: str, protocol: str) -> DialAddress | UdpAddress:
    """The address of a service.

    :param protocol: what it is where the text does not say.
    :raises ConfigError: it cannot be dialled.
    """
    written, protocol = _kind(written, protocol)
    return udp_address(written, lowest=1) if protocol == "udp" else DialAddress.parse(written)


def listen(written: str, protocol: str) -> ListenAddress | UdpAddress:
    """The address where a client listens.

    :param protocol: what it is where the text does not say.
    :raises ConfigError: it cannot be listened on.
    """
    written, protocol = _kind(written, protocol)
    return udp_address(written, lowest=0) if protocol == "udp" else ListenAddress.parse(written)


def _kind(written: str, protocol: str) -> tuple[str, str]:
    written = written.strip()
    if written.startswith(_UDP):
        return written.removeprefix(_UDP), "udp"
    if written.startswith("tcp:") and protocol == "udp":
        raise ConfigError(f"'{written}' is an address for TCP; leave tcp: away, or the protocol udp")
    # An endpoint string would want backslashes in an IPv6 address.
    return (written.removeprefix("tcp:") if written.startswith("tcp:[") else written), protocol


def services(value: object) -> tuple[ServiceSettings, ...]:
    """Read the services of a host.

    :raises ConfigError: an entry is wrong; the message says which.
    """
    return _entries(value, _service_from_text, _service_from_mapping, "{name: web, remote: 127.0.0.1:80}")


def _service_from_text(written: str) -> ServiceSettings:
    name, equals, remote = written.strip().partition("=")
    if not equals or not remote or not name:
        raise ConfigError(f"'{written}' is not NAME=ADDRESS; write web=127.0.0.1:80 or dns=udp:127.0.0.1:53")
    return ServiceSettings(_name(name.strip()), dial(remote, "tcp"))


def _service_from_mapping(entry: object, where: str) -> ServiceSettings:
    values = _known(entry, where, ("name", "remote", "protocol"))
    _needs(values, where, "name", "what clients ask for, such as name: web")
    _needs(values, where, "remote", "the service's address, such as remote: 127.0.0.1:80")
    name = _at(where, "name", lambda: _name(text(values["name"])))
    protocol = _at(where, "protocol", lambda: _protocol(values.get("protocol", "tcp")))
    return ServiceSettings(name, _at(where, "remote", lambda: dial(text(values["remote"]), protocol)))


def forwards(value: object) -> tuple[ForwardSettings, ...]:
    """Read the forwards of a client.

    :raises ConfigError: an entry is wrong; the message says which.
    """
    return _entries(value, _forward_from_text, _forward_from_mapping, "{local: 127.0.0.1:8080, service: web}")


def _forward_from_text(written: str) -> ForwardSettings:
    # The address comes first, and an endpoint string may have a = of its own.
    local, equals, name = written.strip().rpartition("=")
    if not equals or not local:
        raise ConfigError(f"'{written}' is not ADDRESS=NAME; write 127.0.0.1:8080=web or udp:127.0.0.1:5353=dns")
    if ":" in name:
        raise ConfigError(f"'{written}': the address comes first, and then the name: write 127.0.0.1:8080=web")
    return ForwardSettings(_name(name.strip()) if name.strip() else "", listen(local, "tcp"))


def _forward_from_mapping(entry: object, where: str) -> ForwardSettings:
    values = _known(entry, where, ("local", "service", "protocol"))
    _needs(values, where, "local", "where to listen, such as local: 127.0.0.1:8080")
    name = _at(where, "service", lambda: _name(text(values["service"])) if values.get("service") else "")
    protocol = _at(where, "protocol", lambda: _protocol(values.get("protocol", "tcp")))
    return ForwardSettings(name, _at(where, "local", lambda: listen(text(values["local"]), protocol)))


def _name(name: str) -> str:
    if not re.fullmatch(rf"[A-Za-z0-9._-]{{1,{_NAME_LENGTH}}}", name):
        raise ConfigError(
            f"{shown(name)} is not a name of a service: up to {_NAME_LENGTH} letters, digits, dots, dashes and "
            "underscores are"
        )
    return name


def _entries(
    value: object,
    from_text: Callable[[str], EntryT],
    from_mapping: Callable[[object, str], EntryT],
    example: str,
) -> tuple[EntryT, ...]:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list):
        raise ConfigError(f"{shown(value)} is not a list; write '- {example}' in it")
    found = []
    for number, entry in enumerate(value, 1):
        if isinstance(entry, str):
            try:
                found.append(from_text(entry))
            except ConfigError as error:
                raise ConfigError(str(error) if f"'{entry}'" in str(error) else f"in '{entry}', {error}") from error
        else:
            found.append(from_mapping(entry, f"entry {number}"))
    return tuple(found)


def _known(entry: object, where: str, keys: tuple[str, ...]) -> dict[str, object]:
    values = keys_with_underscores(entry, where)
    for key in values:
        if key not in keys:
            raise ConfigError(f"{where}: unknown key '{key}'{suggestion(key, keys)}")
    return values


def _needs(values: dict[str, object], where: str, key: str, what: str) -> None:
    if key not in values:
        raise ConfigError(f"{where}: has no key '{key}'; write {what}")


def _at(where: str, key: str, read: Callable[[], EntryT]) -> EntryT:
    try:
        return read()
    except ConfigError as error:
        raise ConfigError(f"{where}: key '{key}': {error}") from error


def decide_services(resolved: Resolved) -> tuple[ServiceSettings, ...]:
    """The services of a host: the default one, then those with names.

    If ``remote`` and the list come from different sources, the one from the higher source replaces the other.

    :raises ConfigError: they do not fit together.
    """
    found: list[ServiceSettings] = []
    if _has_default(resolved, "remote", "service"):
        found.append(ServiceSettings("", _default(resolved, "remote", dial)))
    if resolved.sources["service"].rank >= resolved.sources["remote"].rank:
        found.extend(resolved.values["service"])
    names = set()
    for service in found:
        if service.name in names:
            raise resolved.error("service", f"two services are named '{service.name}'; give each a name of its own")
        names.add(service.name)
    return tuple(found)


def decide_forwards(resolved: Resolved) -> tuple[ForwardSettings, ...]:
    """The local ports of a client: that of the default service, then those with names.

    If ``local`` and the list come from different sources, the one from the higher source replaces the other.

    :raises ConfigError: they do not fit together.
    """
    found: list[ForwardSettings] = []
    if _has_default(resolved, "local", "forward"):
        found.append(ForwardSettings("", _default(resolved, "local", listen)))
    if resolved.sources["forward"].rank >= resolved.sources["local"].rank:
        found.extend(resolved.values["forward"])
    places = set()
    for forward in found:
        local = forward.local
        if isinstance(local, UdpAddress):
            place, any_port = f"{_UDP}{local.host}:{local.port}", local.port == 0
        else:
            place, any_port = local.description, local.description.split(":")[1:2] == ["0"]
        if place in places and not any_port:
            raise resolved.error("forward", f"two forwards listen on {local}; give each an address of its own")
        places.add(place)
    return tuple(found)


def _has_default(resolved: Resolved, name: str, listed: str) -> bool:
    """Whether the default service is wanted: it is named, or nothing is listed."""
    rank, list_rank = resolved.sources[name].rank, resolved.sources[listed].rank
    wanted = not resolved.values[listed] or list_rank <= rank > Rank.DEFAULT
    if not wanted and resolved.sources["protocol"].rank == Rank.FLAG:
        raise resolved.error("protocol", f"is for --{name}; with --{listed} write udp: before an address for UDP")
    return wanted


def _default(resolved: Resolved, name: str, read: Callable[[str, str], EntryT]) -> EntryT:
    try:
        return read(resolved.values[name], resolved.values["protocol"])
    except ConfigError as error:
        raise resolved.error(name, str(error)) from error
