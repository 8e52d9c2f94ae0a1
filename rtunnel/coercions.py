"""Coercions: turn what an operator wrote into a value of the right type, within its bounds.

A coercion takes text (from a flag or an environment variable) or any YAML value. It returns the value or raises
:class:`~rtunnel.errors.ConfigError`; the caller adds where the value came from.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rtunnel.addresses import FILES, DialAddress, ListenAddress, PortRanges, UdpAddress, host_and_port
from rtunnel.endpoint_strings import ip_address, suggestion
from rtunnel.errors import ConfigError
from rtunnel.host_names import host_pattern

#: The longest time that is accepted, in seconds. epoll cannot wait longer than about 24 days.
MAX_SECONDS = 1_000_000.0

# The networks of IPv4 addresses in IPv6.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
# The longest text that an error shows whole, in characters.
_MOST_SHOWN = 200
_TIME_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def shown(value: object) -> str:
    """Return a value as an error message shows it; of a text, the first 200 characters."""
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= _MOST_SHOWN else f"'{value[:_MOST_SHOWN]}...'"
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return repr(value)


def pinpointed(error: ConfigError, coerce: Callable[[Any], object], value: object) -> ConfigError:
    """Return an error about a list as one that leads to the entry that is wrong, if one of them is by itself."""
    if isinstance(value, list) and not error.at:
        for index, each in enumerate(value):
            try:
                coerce([each])
            except ConfigError:
                return error.within("", index)
    return error


def text(value: object) -> str:
    """Read any text that is not empty; a number is text too.

    :raises ConfigError: the value is empty, or not a single value.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"{shown(value)} is not text; put it in quotes")
    if not str(value).strip():
        raise ConfigError("is empty")
    return str(value).strip()


def joined(value: object) -> str:
    """Read text, or a list of texts as one comma-separated text.

    :raises ConfigError: a text is empty, or not a single value.
    """
    return ",".join(map(text, value)) if isinstance(value, list) else text(value)


def boolean(value: object) -> bool:
    """Read yes or no.

    :raises ConfigError: it is neither.
    """
    word = str(value).lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ConfigError(f"{shown(value)} is neither true nor false")


def integer(lowest: int, highest: int) -> Callable[[object], int]:
    """Return a coercion to a whole number within bounds, both included."""

    def coerce(value: object) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, str | int)
            or not re.fullmatch(r"[+-]?[0-9]{1,18}", str(value).strip())
        ):
            raise ConfigError(f"{shown(value)} is not a whole number; write one from {lowest} to {highest}")
        number = int(value)
        if not lowest <= number <= highest:
            raise ConfigError(f"{number} is out of range; write a whole number from {lowest} to {highest}")
        return number

    return coerce


def seconds(*, zero: bool) -> Callable[[object], float]:
    """Return a coercion to seconds: ``10``, ``1.5``, ``500ms``, ``2m`` or ``1h``.

    :param zero: whether 0 is allowed.
    """
    lowest = "0" if zero else "more than 0"

    def coerce(value: object) -> float:
        match = None
        if not isinstance(value, bool) and isinstance(value, str | int | float):
            match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)", str(value).strip())
        if match is None or match[2] not in _TIME_UNITS:
            raise ConfigError(f"{shown(value)} is not a time; write seconds such as 10 or 1.5, or 500ms, 2m, 1h")
        number = float(match[1]) * _TIME_UNITS[match[2]]
        if number > MAX_SECONDS or (number == 0 and not zero):
            raise ConfigError(f"{shown(value)} is out of range; a time here is {lowest} to {MAX_SECONDS:.0f} seconds")
        return number

    return coerce


def size(lowest: int, highest: int) -> Callable[[object], int]:
    """Return a coercion to bytes within bounds: ``65536``, ``64K``, ``8M`` or ``1G``, in powers of 1024."""

    def coerce(value: object) -> int:
        match = None
        if not isinstance(value, bool) and isinstance(value, str | int):
            match = re.fullmatch(r"([0-9]{1,18})\s*([KMG]?)(?:i?B)?", str(value).strip(), re.IGNORECASE)
        if match is None:
            raise ConfigError(f"{shown(value)} is not a size; write bytes such as 65536, or 64K, 8M, 1G")
        number = int(match[1]) * _SIZE_UNITS[match[2].upper()]
        if not lowest <= number <= highest:
            raise ConfigError(
                f"{shown(value)} is out of range; a size here is {show_size(lowest)} to {show_size(highest)}"
            )
        return number

    return coerce


def show_size(number: int) -> str:
    """Write a number of bytes as briefly as possible, so that :func:`size` reads it back."""
    for unit in ("G", "M", "K"):
        if number and number % _SIZE_UNITS[unit] == 0:
            return f"{number // _SIZE_UNITS[unit]}{unit}"
    return str(number)


def show_seconds(number: float) -> str:
    """Write a time as briefly as possible, so that :func:`seconds` reads it back."""
    return str(int(number)) if math.floor(number) == number else str(number)


def choice(*words: str) -> Callable[[object], str]:
    """Return a coercion to one of a few words."""

    def coerce(value: object) -> str:
        if not isinstance(value, str) or value.strip() not in words:
            hint = suggestion(value, words) if isinstance(value, str) else ""
            raise ConfigError(f"{shown(value)} is not one of {', '.join(words)}{hint}")
        return value.strip()

    return coerce


def listen_address(value: object) -> ListenAddress:
    """Read an address to listen on."""
    return ListenAddress.parse(text(value))


def service_address(value: object) -> DialAddress:
    """Read the address of a local service: one to connect to, or ``files:DIR``, a directory whose files are served."""
    written = text(value)
    if written.startswith("/") and _is_directory(written):
        raise ConfigError(f"{shown(written)} is a directory; write {FILES}{written}")
    if not written.startswith(FILES):
        return DialAddress.parse(written)
    name = written.removeprefix(FILES)
    if name.startswith("//"):
        raise ConfigError(f"{shown(written)} is a URL; write {FILES}/{name.lstrip('/')}")
    if not name.strip():
        raise ConfigError(f"'{written}' does not say which directory; write {FILES}/srv/share")
    return DialAddress.of_directory(written, path(name))


def _is_directory(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # too long, or in a directory that this process may not enter
        return False


def server_address(value: object) -> DialAddress:
    """Read the address of a server's control port."""
    return DialAddress.parse(text(value), example_port=7000)


def server_addresses(value: object) -> tuple[DialAddress, ...]:
    """Read the addresses of the control ports of one or several servers: a list, or text with commas.

    :raises ConfigError: one of them is wrong, or is there twice.
    """
    entries = value if isinstance(value, list) else [value]
    found = tuple(server_address(each) for entry in entries for each in text(entry).split(","))
    if not found:
        raise ConfigError("is empty; write the address of a server, such as tunnel.example.org:7000")
    for number, address in enumerate(found):
        if address in found[:number]:
            raise ConfigError(f"has '{address}' twice")
    return found


def interface(value: object) -> str:
    """Read the IP address of an interface."""
    return ip_address(text(value))


def port_ranges(value: object) -> PortRanges:
    """Read ports and ranges of ports, as text or as a list."""
    return PortRanges.parse("none" if value == [] else joined(value))


def host_patterns(value: object) -> tuple[str, ...]:
    """Read host names, as text with commas between them or as a list; ``none`` or an empty list: no name.

    :raises ConfigError: one of them is no host name.
    """
    written = "" if value == [] or value == "none" else joined(value)
    return tuple(host_pattern(each) for each in written.split(",")) if written else ()


def networks(value: object) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Read networks and addresses, such as ``10.0.0.0/8,2001:db8::/32``, as text or as a list.

    IPv4 networks that are written as IPv6 (``::ffff:10.0.0.0/104``) become IPv4.

    :raises ConfigError: one of them is neither.
    """
    found = []
    for part in joined(value).split(",") if value not in ([], "none") else ():
        written = part.strip()
        try:
            found.append(_comparable(ipaddress.ip_network(written)))
        except ValueError:
            try:
                remedy = str(ipaddress.ip_interface(written).network)
            except ValueError:
                remedy = "networks such as 10.0.0.0/8 or 2001:db8::/32"
            raise ConfigError(f"{shown(written)} is not a network; write {remedy}") from None
    return tuple(found)


def _comparable(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return IPv4 addresses in IPv6 as IPv4, and others without the name of an interface (``fe80::1%eth0``)."""
    number, length = int(network.network_address), network.prefixlen
    if network.version == 4:
        return network
    if network.subnet_of(_MAPPED):
        return ipaddress.IPv4Network((number & 0xFFFFFFFF, length - 96))
    return ipaddress.IPv6Network((number, length))


def path(value: object) -> Path:
    """Read the path of a file, and make it absolute, since a daemon changes its directory; ``~`` is the home directory.

    :raises ConfigError: it cannot be the name of a file.
    """
    name = text(value)
    try:
        is_name = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise ConfigError(f"{shown(name)} is not the name of a file")
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError:
        raise ConfigError(f"'{name}' begins with ~, and there is no such home directory; write the full path") from None


def optional(coerce: Callable[[object], object], absent: object) -> Callable[[object], object]:
    """Return a coercion that also accepts empty text, which the reference programs read as "not given"."""

    def coerce_unless_empty(value: object) -> object:
        return absent if isinstance(value, str) and not value.strip() else coerce(value)

    return coerce_unless_empty


_UDP_FORMS = "write :53, host:53, 1.2.3.4:53 or [::1]:53"


def udp_address(written: str, *, lowest: int) -> UdpAddress:
    """Read host and port for UDP, without ``udp:``.

    :param lowest: the lowest port that is allowed: 0 to listen, 1 to dial.
    :raises ConfigError: it is something else.
    """
    if not written:
        raise ConfigError(f"an empty address; {_UDP_FORMS}")
    if "/" in written:
        raise ConfigError(f"'{written}' is not an address for UDP; {_UDP_FORMS}")
    host, port = host_and_port(written, _UDP_FORMS, 53, lowest)
    return UdpAddress(written, host, port)
