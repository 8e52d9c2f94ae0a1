"""The services that a host offers, and the addresses where a client forwards to them.

    --service NAME=ADDRESS     web=127.0.0.1:80   app=unix:/run/app.sock   dns=udp:127.0.0.1:53
    --forward ADDRESS=NAME     :8080=web          udp:127.0.0.1:5353=dns   :2222=              (the default service)

``--remote`` and ``--local`` stand for the default service, which has no name; ``--protocol`` says whether it is TCP or
UDP. In the file ``host.services`` and ``client.forwards`` are lists of such texts, or of mappings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from rtunnel.addresses import DialAddress, ListenAddress, UdpAddress
from rtunnel.coercions import choice, shown, text, udp_address
from rtunnel.errors import ConfigError
from rtunnel.options.settings.entries import Entry, read_entries
from rtunnel.options.settings.sources import Rank, Resolved
from rtunnel.rtc.settings import ForwardSettings, ServiceSettings

_UDP = "udp:"
_NAME_LENGTH = 64

_protocol = choice("tcp", "udp")
AddressT = TypeVar("AddressT")


def dial(written: str, protocol: str) -> DialAddress | UdpAddress:
    """Read the address of a service.

    :param protocol: ``tcp`` or ``udp``, if the text does not begin with either.
    :raises ConfigError: it cannot be dialled.
    """
    written, protocol = _kind(written, protocol)
    return udp_address(written, lowest=1) if protocol == "udp" else DialAddress.parse(written)


def listen(written: str, protocol: str) -> ListenAddress | UdpAddress:
    """Read an address for a client to listen on.

    :param protocol: ``tcp`` or ``udp``, if the text does not begin with either.
    :raises ConfigError: a client cannot listen on it.
    """
    written, protocol = _kind(written, protocol)
    return udp_address(written, lowest=0) if protocol == "udp" else ListenAddress.parse(written)


def _kind(written: str, protocol: str) -> tuple[str, str]:
    written = written.strip()
    if written.startswith(_UDP):
        return written.removeprefix(_UDP), "udp"
    if written.startswith("tcp:") and protocol == "udp":
        raise ConfigError(f"'{written}' is an address for TCP; leave out tcp:, or the protocol udp")
    # Unlike Twisted's endpoint strings, the short form needs no backslashes in an IPv6 address.
    return (written.removeprefix("tcp:") if written.startswith("tcp:[") else written), protocol


def services(value: object) -> tuple[ServiceSettings, ...]:
    """Read the services of a host.

    :raises ConfigError: an entry is wrong; the message says which.
    """
    keys = ("name", "remote", "protocol")
    return read_entries(value, _service_from_text, _service_from_mapping, keys, "{name: web, remote: 127.0.0.1:80}")


def _service_from_text(written: str) -> ServiceSettings:
    name, equals, remote = written.strip().partition("=")
    if not equals or not remote or not name:
        raise ConfigError(f"'{written}' is not NAME=ADDRESS; write web=127.0.0.1:80 or dns=udp:127.0.0.1:53")
    return ServiceSettings(_name(name.strip()), dial(remote, "tcp"))


def _service_from_mapping(entry: Entry) -> ServiceSettings:
    entry.require("name", "what clients ask for, such as name: web")
    entry.require("remote", "the service's address, such as remote: 127.0.0.1:80")
    name = entry.read("name", lambda written: _name(text(written)))
    protocol = entry.read("protocol", _protocol, "tcp")
    return ServiceSettings(name, entry.read("remote", lambda written: dial(text(written), protocol)))


def forwards(value: object) -> tuple[ForwardSettings, ...]:
    """Read the forwards of a client.

    :raises ConfigError: an entry is wrong; the message says which.
    """
    keys = ("local", "service", "protocol")
    return read_entries(value, _forward_from_text, _forward_from_mapping, keys, "{local: 127.0.0.1:8080, service: web}")


def _forward_from_text(written: str) -> ForwardSettings:
    # The address comes first, and may be an endpoint string with a = in it.
    local, equals, name = written.strip().rpartition("=")
    if not equals or not local:
        raise ConfigError(f"'{written}' is not ADDRESS=NAME; write 127.0.0.1:8080=web or udp:127.0.0.1:5353=dns")
    if ":" in name:
        raise ConfigError(f"'{written}': the address comes first, and then the name: write 127.0.0.1:8080=web")
    return ForwardSettings(_name(name.strip()) if name.strip() else "", listen(local, "tcp"))


def _forward_from_mapping(entry: Entry) -> ForwardSettings:
    entry.require("local", "where to listen, such as local: 127.0.0.1:8080")
    name = entry.read("service", lambda written: _name(text(written)) if written else "")
    protocol = entry.read("protocol", _protocol, "tcp")
    return ForwardSettings(name, entry.read("local", lambda written: listen(text(written), protocol)))


def _name(name: str) -> str:
    if not re.fullmatch(rf"[A-Za-z0-9._-]{{1,{_NAME_LENGTH}}}", name):
        raise ConfigError(
            f"{shown(name)} is not a service name; use up to {_NAME_LENGTH} letters, digits, dots, dashes, underscores"
        )
    return name


def decide_services(resolved: Resolved) -> tuple[ServiceSettings, ...]:
    """Return the services of a host: the default service, then those with names.

    If ``remote`` and the list come from different sources, the one from the stronger source replaces the other.

    :raises ConfigError: two services have the same name, or an address is wrong.
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
    """Return the local ports of a client: that of the default service, then those with names.

    If ``local`` and the list come from different sources, the one from the stronger source replaces the other.

    :raises ConfigError: two forwards listen on the same address, or an address is wrong.
    """
    found: list[ForwardSettings] = []
    if _has_default(resolved, "local", "forward"):
        found.append(ForwardSettings("", _default(resolved, "local", listen)))
    if resolved.sources["forward"].rank >= resolved.sources["local"].rank:
        found.extend(resolved.values["forward"])
    taken = set()
    for forward in found:
        local = forward.local
        if isinstance(local, UdpAddress):
            address, any_port = f"{_UDP}{local.host}:{local.port}", local.port == 0
        else:
            address, any_port = local.description, local.description.split(":")[1:2] == ["0"]
        if address in taken and not any_port:
            raise resolved.error("forward", f"two forwards listen on {local}; give each an address of its own")
        taken.add(address)
    return tuple(found)


def _has_default(resolved: Resolved, name: str, listed: str) -> bool:
    """Return whether the default service is wanted: it is given, or the list is empty."""
    rank, list_rank = resolved.sources[name].rank, resolved.sources[listed].rank
    wanted = not resolved.values[listed] or list_rank <= rank > Rank.DEFAULT
    if not wanted and resolved.sources["protocol"].rank == Rank.FLAG:
        raise resolved.error("protocol", f"is for --{name}; with --{listed} write udp: before an address for UDP")
    return wanted


def _default(resolved: Resolved, name: str, read: Callable[[str, str], AddressT]) -> AddressT:
    try:
        return read(resolved.values[name], resolved.values["protocol"])
    except ConfigError as error:
        raise resolved.error(name, str(error)) from error
