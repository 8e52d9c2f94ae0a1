"""Twisted's endpoint strings and the parts of addresses: reading, checking and writing them.

    KIND [":" VALUE]... [":" NAME "=" VALUE]...         with "\\" before a literal ":", "=" or "\\"

Twisted notices most errors in these only when it listens or dials, and reports them in Python's terms. This module
checks each argument of Twisted's own kinds of endpoint; of the kinds that plugins add, only the name.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import (
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpointStringParser,
)

from rtunnel.errors import ConfigError

MAX_PORT = 65535
#: Most characters of a DNS name, without a dot at its end. An international name in ASCII is never shorter.
MAX_NAME = 253

# The positional arguments of Twisted's own endpoint types, in Twisted's order.
_SERVER_ARGUMENTS: Mapping[str, Sequence[str]] = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
}
_CLIENT_ARGUMENTS: Mapping[str, Sequence[str]] = {
    "tcp": ("host", "port", "timeout", "bindAddress"),
    "unix": ("path", "timeout", "lockfile"),
}
LISTEN_FORMS = (
    "write :7000, 1.2.3.4:7000, [::1]:7000, tcp:7000:interface=127.0.0.1, unix:/path or systemd:domain=INET:index=0"
)
DIAL_FORMS = "write :80, host:80, 1.2.3.4:80, [::1]:80, tcp:host:80 or unix:/path"
#: The longest path of a UNIX socket, in bytes: ``sun_path`` of unix(7), less the zero at its end.
MOST_UNIX_PATH = 107 if sys.platform == "linux" else 103


def endpoint_kind(text: str, forms: str, server: bool) -> str | None:
    """Return the kind of endpoint that an address names, or None for a short form.

    :raises ConfigError: the kind does not exist, or the address is empty or a URL.
    """
    if not text:
        raise ConfigError(f"an empty address; {forms}")
    if "://" in text:
        host = text.partition("://")[2].partition("/")[0]
        raise ConfigError(f"'{text}' is a URL; write only its host and port{', ' + host if ':' in host else ''}")
    kind, colon, rest = text.partition(":")
    if not colon or not kind or text.startswith("["):
        return None
    if kind in (_SERVER_ARGUMENTS if server else _CLIENT_ARGUMENTS):
        return kind
    if rest.isdecimal() and (not server or kind == "localhost" or "." in kind):
        # To look at the plugins is to import them all, Autobahn's for one.
        return None
    if kind.lower() in _kinds_of_plugins(server):
        return kind
    if ":" not in rest or is_ipv6(text) or is_ipv6(text.rpartition(":")[0]):
        return None
    raise ConfigError(f"'{kind}' in '{text}' is not a kind of endpoint; {forms}")


def server_description(kind: str, text: str) -> str:
    """Check an endpoint string to listen on, and return it in its canonical form.

    :raises ConfigError: it is wrong.
    """
    names = _SERVER_ARGUMENTS.get(kind)
    if names is None:
        return text
    bound = _arguments(kind, names, text)
    if kind == "systemd":
        if "domain" not in bound or ("index" in bound) == ("name" in bound):
            raise ConfigError(f"'{text}' is incomplete; write systemd:domain=INET:index=0 or ...:name=x")
        return join_description([kind], bound)
    main = bound.pop(names[0], "")
    if kind == "unix":
        return join_description([kind, unix_path(main, text)], bound)
    port = port_number(main, text, 0, LISTEN_FORMS)
    if bound.get("interface") == "":
        del bound["interface"]
    if "interface" in bound:
        bound["interface"] = _interface(kind, bound["interface"], text)
    return join_description([kind, str(port)], bound)


def client_description(kind: str, text: str) -> tuple[str, str | None, int | None]:
    """Check an endpoint string to dial, and return it in its canonical form, with its host and port if it has them.

    :raises ConfigError: it is wrong.
    """
    names = _CLIENT_ARGUMENTS.get(kind)
    if names is None:
        return text, None, None
    bound = _arguments(kind, names, text)
    if kind == "unix":
        return join_description([kind, unix_path(bound.pop("path", ""), text)], bound), None, None
    if "port" not in bound:
        raise ConfigError(f"'{text}' has no host or no port; write tcp:127.0.0.1:80")
    host = bound.pop("host", "")
    if not is_ipv6(host):
        host = host_name(host, text)
    if "bindAddress" in bound:
        bound["bindAddress"] = ip_address(bound["bindAddress"])
    port = port_number(bound.pop("port"), text, 1, DIAL_FORMS)
    return join_description([kind, host, str(port)], bound), host, port


def unix_path(path: str, text: str) -> str:
    """Return the path of a UNIX socket, if one can have it.

    :param text: the address in which it is.
    :raises ConfigError: none can.
    """
    if not path:
        raise ConfigError(f"'{text}' has no path; write unix:/path")
    try:
        count = len(os.fsencode(path))
    except UnicodeEncodeError as error:
        raise ConfigError(f"'{path}' in '{text}' is not the name of a file") from error
    if count > MOST_UNIX_PATH:
        raise ConfigError(
            f"the path of a UNIX socket has at most {MOST_UNIX_PATH} bytes, and the one in '{text}' has {count}; "
            "choose a shorter one, or make a symbolic link to its directory"
        )
    return path


def split_description(description: str) -> tuple[list[str], dict[str, str]]:
    """Return the positional arguments of an endpoint string, its kind first, and the named ones.

    :raises ConfigError: it ends in the middle of an escape.
    """
    if re.search(r"(?<!\\)(\\\\)*\\$", description):
        raise ConfigError(f"'{description}' ends with a lone backslash; write \\\\ for a literal one")
    positional: list[str] = []
    named: dict[str, str] = {}
    for argument in re.findall(r"(?:^|:)((?:\\.|[^\\:])*)", description, re.DOTALL):
        key = re.match(r"((?:\\.|[^\\=])*)=(.*)", argument, re.DOTALL)
        if key is None:
            positional.append(_unescape(argument))
        else:
            named[_unescape(key[1])] = _unescape(key[2])
    return positional, named


def join_description(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """Return the endpoint string of some arguments: the inverse of :func:`split_description`."""
    return ":".join(
        [_escape(argument) for argument in positional] + [f"{key}={_escape(value)}" for key, value in named.items()]
    )


def port_number(text: str, whole: str, lowest: int, forms: str) -> int:
    """Read a port from *lowest* to 65535.

    :param whole: the whole address, for an error message.
    :param forms: what the error message tells the operator to write.
    :raises ConfigError: it is not such a port.
    """
    if not re.fullmatch(r"[0-9]{1,9}", text):
        what = f"'{text}' in '{whole}'" if text != whole else f"'{text}'"
        raise ConfigError(f"{what} is not a port number; {forms}")
    if not lowest <= int(text) <= MAX_PORT:
        raise ConfigError(f"port {int(text)} is out of range; a port is {lowest} to {MAX_PORT}")
    return int(text)


def host_name(host: str, text: str) -> str:
    """Return a host name, an international one in its ASCII form, or an IPv4 address.

    :param text: the whole address, for an error message.
    :raises ConfigError: it is neither.
    """
    if re.fullmatch(r"[0-9.]+", host):
        if not is_ipv4(host):
            raise ConfigError(f"'{host}' is not an IPv4 address, which has four numbers from 0 to 255")
        return host
    try:
        ascii_host = ascii_name(host)
    except ValueError:
        ascii_host = ""
    labels = ascii_host.removesuffix(".").split(".")
    if len(ascii_host) > MAX_NAME or not all(
        re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", label) for label in labels
    ):
        raise ConfigError(f"'{host}' in '{text}' is not a host name")
    return ascii_host


def ascii_name(name: str) -> str:
    """Return the ASCII form of an international DNS name (IDNA 2008, RFC 5891); return other names as they are.

    :raises ValueError: it has none.
    """
    if len(name) > MAX_NAME and not name.isascii():
        # The time that idna takes grows faster than the name.
        raise ValueError("too long")
    if name.isascii():
        return name
    import idna

    labels = re.split("[.\u3002\uff0e\uff61]", name)
    return ".".join(each if each.isascii() else idna.encode(each, uts46=True).decode("ascii") for each in labels)


def ip_address(text: str) -> str:
    """Read the IP address of an interface, with or without brackets.

    :raises ConfigError: it is not an IP address.
    """
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    if not (is_ipv4(bare) or is_ipv6(bare)):
        raise ConfigError(f"'{text}' is not an IP address; write one such as 127.0.0.1 or ::1")
    return bare


def is_ipv4(text: str) -> bool:
    """Return whether *text* is an IPv4 address."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def is_ipv6(text: str) -> bool:
    """Return whether *text* is an IPv6 address, without brackets."""
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def suggestion(word: str, known: Iterable[str], cutoff: float | None = None) -> str:
    """Return ``; did you mean '...'?`` with the closest known word, or nothing.

    :param cutoff: how close it must be, 1 being the same. By default it may also be the only one with *word* as its
        end: ``port`` is close to ``remote_port``.
    """
    import difflib

    known = list(known)
    close = difflib.get_close_matches(word, known, 1, 0.6 if cutoff is None else cutoff)
    if not close and cutoff is None:
        longer = {one for one in known if one.endswith((f"_{word}", f"-{word}"))}
        close = list(longer) if len(longer) == 1 else []
    return f"; did you mean '{close[0]}'?" if close else ""


@functools.cache
def _kinds_of_plugins(server: bool) -> frozenset[str]:
    """Return the kinds of endpoint that plugins provide, in lower case. Twisted reads its plugin folders each time."""
    from twisted.plugin import getPlugins

    plugins: Iterable[Any] = getPlugins(
        IStreamServerEndpointStringParser if server else IStreamClientEndpointStringParserWithReactor
    )
    return frozenset({"ssl"} | {plugin.prefix.lower() for plugin in plugins})


def _arguments(kind: str, names: Sequence[str], text: str) -> dict[str, str]:
    """Bind the arguments of an endpoint string to their names, as Twisted does."""
    positional, named = split_description(text)
    if len(positional) - 1 > len(names):
        raise ConfigError(f"'{text}' has too many parts; {kind} takes {', '.join(names)}")
    bound = dict(zip(names, positional[1:], strict=False))
    for name, value in named.items():
        if name not in names:
            raise ConfigError(f"'{text}' has an unknown argument '{name}'{suggestion(name, names)}")
        if name in bound:
            raise ConfigError(f"'{text}' gives {name} twice")
        bound[name] = value
    for name, pattern, meaning in (
        ("backlog", "[1-9][0-9]{0,8}", "a whole number from 1"),
        ("timeout", "[1-9][0-9]{0,5}", "a whole number of seconds from 1"),
        ("mode", "[0-7]{3,4}", "octal permissions such as 660"),
        ("lockfile", "[01]", "0 or 1"),
    ):
        if name in bound and not re.fullmatch(pattern, bound[name]):
            raise ConfigError(f"{name}={bound[name]} in '{text}' is not {meaning}")
    return bound


def _interface(kind: str, interface: str, text: str) -> str:
    if kind == "tcp6" and not is_ipv6(interface):
        raise ConfigError(f"interface={interface} in '{text}' is not an IPv6 address; write interface=\\:\\:1")
    return interface if is_ipv6(interface) else host_name(interface, text)


def _escape(argument: str) -> str:
    return re.sub(r"([\\:=])", r"\\\1", argument)


def _unescape(argument: str) -> str:
    return re.sub(r"\\(.)", r"\1", argument, flags=re.DOTALL)
