"""Addresses and port ranges as operators write them.

There are two notations: the short forms of the reference programs::

    PORT | :PORT | HOST:PORT | IPv4:PORT | [IPv6]:PORT

and Twisted's endpoint strings, with ``\\`` before a literal ``:``, ``=`` or ``\\``::

    tcp:7000:interface=127.0.0.1    tcp6:7000    unix:/run/x.sock:mode=660    systemd:domain=INET:index=0
    tcp:host:80                     unix:/run/x.sock                                       (to dial)

A local service may also be a directory, ``files:DIR``, whose files are served.

All become one canonical endpoint string. UDP has only the short forms. Everything is checked here, before anything
listens or dials. An error is a :class:`~rtunnel.errors.ConfigError` that says what to write instead.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from twisted.internet.interfaces import IReactorPluggableNameResolver, IStreamClientEndpoint, IStreamServerEndpoint
from zope.interface import implementer

from rtunnel.endpoint_strings import (
    DIAL_FORMS,
    LISTEN_FORMS,
    client_description,
    endpoint_kind,
    host_name,
    is_ipv4,
    is_ipv6,
    join_description,
    port_number,
    server_description,
    split_description,
)
from rtunnel.errors import ConfigError
from rtunnel.name_endpoint import NameEndpoint

#: Connections that the kernel holds for a listening socket until they are accepted.
BACKLOG = 1024
#: Permissions of a UNIX socket that we listen on, unless its address has others: Twisted's own let every user connect.
SOCKET_MODE = "600"
#: Stands in front of an address at which a load balancer passes connections on, each with a PROXY header.
PROXIED = "haproxy:"
#: Stands in front of a directory that is served.
FILES = "files:"
UDP_FORMS = "write :53, host:53, 1.2.3.4:53 or [::1]:53"
#: Kinds of endpoint that accept connections of the system, with nothing in between.
SOCKET_KINDS = ("tcp", "tcp6", "unix", "systemd")


@implementer(IReactorPluggableNameResolver)
class _NoReactor:
    """Stands in for the reactor when an endpoint is built only to see whether that works."""

    nameResolver: Any = None

    def installNameResolver(self, resolver: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to accept connections.

    :ivar text: the address as the operator wrote it.
    :ivar description: the same as a Twisted server endpoint string. Comparisons use only this.
    """

    text: str = field(compare=False)
    description: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address to listen on; port 0 is any free port, ``[::]:7000`` is every address of both families.

        :raises ConfigError: no machine could listen on it.
        """
        text = text.strip()
        kind = endpoint_kind(text, LISTEN_FORMS, server=True)
        inner = text.removeprefix(PROXIED)
        if kind == "haproxy" and endpoint_kind(inner, LISTEN_FORMS, server=True) in (None, *SOCKET_KINDS):
            return cls(text, PROXIED + cls.parse(inner).description)
        if kind is None:
            host, port = host_and_port(text, LISTEN_FORMS, example_port=7000, lowest=0)
            if ":" in host:
                description = join_description(["tcp6", str(port)], {"interface": host})
            else:
                description = join_description(["tcp", str(port)], {"interface": host} if host else {})
        else:
            description = server_description(kind, text)
        address = cls(text, description)
        if kind not in (None, "tcp", "tcp6", "unix"):
            _attempt(address.endpoint, text, LISTEN_FORMS)
        return address

    @property
    def is_proxied(self) -> bool:
        """Whether each connection to the :meth:`endpoint` begins with a PROXY header, which is not removed there."""
        kind, *inner = split_description(self.description)[0]
        return kind == "haproxy" and inner[:1] in ([each] for each in SOCKET_KINDS)

    @property
    def is_local(self) -> bool:
        """Whether it is known that only this machine can connect: the address is loopback, or a UNIX socket."""
        (kind, *_), named = split_description(self.description)
        if kind == "unix":
            return True
        try:
            return kind in ("tcp", "tcp6") and ip_address(named.get("interface", "")).is_loopback
        except ValueError:
            return False

    @property
    def number(self) -> int | None:
        """The number of the TCP port; None: it has none that is known before it is opened."""
        kind, *rest = split_description(self.description.removeprefix(PROXIED))[0]
        return int(rest[0]) or None if kind in ("tcp", "tcp6") else None

    def endpoint(self, reactor: Any) -> IStreamServerEndpoint:
        """Return the endpoint to listen on."""
        from twisted.internet.endpoints import serverFromString

        positional, named = split_description(self.description.removeprefix(PROXIED if self.is_proxied else ""))
        if positional[0] in ("tcp", "tcp6", "unix"):
            named.setdefault("backlog", str(BACKLOG))
        if positional[0] == "unix":
            named.setdefault("mode", SOCKET_MODE)
        build: Any = serverFromString
        endpoint: IStreamServerEndpoint = build(reactor, join_description(positional, named))
        return endpoint

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class UdpAddress:
    """Host and port for UDP. An empty host means every IPv4 address (to listen) or loopback (to dial)."""

    text: str
    host: str
    port: int

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class DialAddress:
    """Where to connect to.

    :ivar text: the address as the operator wrote it.
    :ivar description: the same as a Twisted client endpoint string; for UDP, ``udp`` with host and port; for a
        directory, ``files`` with its path.
    :ivar host: name or IP address; None if the endpoint has none.
    :ivar port: 1 to 65535; None if the endpoint has none.
    """

    text: str = field(compare=False)
    description: str
    host: str | None
    port: int | None

    @classmethod
    def parse(cls, text: str, example_port: int = 80) -> Self:
        """Read an address to dial. Without a host, the host is 127.0.0.1.

        :param example_port: the port that an error message suggests if the port is missing.
        :raises ConfigError: it could not be dialled in any network.
        """
        text = text.strip()
        if text.startswith("/"):
            raise ConfigError(f"'{text}' is a path; write unix:{text}")
        if text.startswith(FILES):
            raise ConfigError(f"'{text}' is a directory, which only a local service of rtunnel-client can be")
        kind = endpoint_kind(text, DIAL_FORMS, server=False)
        host: str | None
        port: int | None
        if kind is None:
            host, port = host_and_port(text, DIAL_FORMS, example_port, lowest=1)
            host = host or "127.0.0.1"
            description = join_description(["tcp", host, str(port)], {})
        else:
            description, host, port = client_description(kind, text)
        address = cls(text, description, host, port)
        if kind not in (None, "tcp", "unix"):
            _attempt(lambda reactor: address.endpoint(reactor, 1.0), text, DIAL_FORMS)
        return address

    @classmethod
    def of_directory(cls, text: str, directory: Path) -> Self:
        """Return the address of a service that serves the files in a directory.

        :param directory: its absolute path.
        """
        return cls(text, join_description(["files", str(directory)], {}), None, None)

    @classmethod
    def parse_udp(cls, text: str) -> Self:
        """Read the address of a UDP service: host and port. Without a host, the host is 127.0.0.1.

        :raises ConfigError: it is something else.
        """
        text = text.strip()
        if text.startswith(("/", "unix:")):
            raise ConfigError(f"'{text}' is a UNIX socket, and UDP wants host and port; {UDP_FORMS}")
        if text.startswith(FILES):
            raise ConfigError(f"'{text}' is a directory, which is served by HTTP and not by UDP; publish it with tcp:")
        if twice := re.fullmatch("(?:tcp|udp):(.+)", text):
            raise ConfigError(f"'{text}' has a kind where host and port belong; write {twice[1]}")
        if endpoint_kind(text, UDP_FORMS, server=False) is not None:
            raise ConfigError(f"'{text}' is a Twisted endpoint, and UDP wants host and port; {UDP_FORMS}")
        host, port = host_and_port(text, UDP_FORMS, example_port=53, lowest=1)
        host = host or "127.0.0.1"
        return cls(text, join_description(["udp", host, str(port)], {}), host, port)

    @property
    def directory(self) -> Path | None:
        """The directory that is served; None: this is something to dial."""
        kind, *path = split_description(self.description)[0]
        return Path(*path) if kind == "files" else None

    @property
    def in_full(self) -> str:
        """The address as the operator wrote it; if that is a port only, with the host."""
        return f"{self.host}:{self.port}" if self.text.lstrip(":").isdecimal() else self.text

    def endpoint(self, reactor: Any, timeout: float) -> IStreamClientEndpoint:
        """Return the endpoint to connect with. An IP address never waits for the resolver's threads.

        :param timeout: seconds that an attempt may take. A timeout in the endpoint string wins, and endpoints other
            than ``tcp`` and ``unix`` have only their own.
        """
        from twisted.internet.endpoints import (
            TCP4ClientEndpoint,
            TCP6ClientEndpoint,
            UNIXClientEndpoint,
            clientFromString,
        )

        positional, named = split_description(self.description)
        own_timeout = float(named.get("timeout", timeout))
        build: Any
        endpoint: IStreamClientEndpoint
        if positional[0] == "unix":
            build = UNIXClientEndpoint
            endpoint = build(reactor, positional[1], timeout=own_timeout, checkPID=named.get("lockfile") == "1")
        elif self.host is None:
            build = clientFromString
            endpoint = build(reactor, self.description)
        else:
            if is_ipv6(self.host):
                build = TCP6ClientEndpoint
            elif is_ipv4(self.host):
                build = TCP4ClientEndpoint
            else:
                build = NameEndpoint
            source = (named["bindAddress"], 0) if "bindAddress" in named else None
            endpoint = build(reactor, self.host, self.port, timeout=own_timeout, bindAddress=source)
        return endpoint

    def socket_address(self) -> tuple[int, Any] | None:
        """Return family and address of the socket to dial, or None if only the endpoint can connect."""
        positional, named = split_description(self.description)
        if named.keys() - {"host", "port"}:
            return None
        if positional[0] == "unix":
            return socket.AF_UNIX, positional[1]
        if self.host is not None and is_ipv4(self.host):
            return socket.AF_INET, (self.host, self.port)
        if self.host is not None and is_ipv6(self.host) and "%" not in self.host:
            return socket.AF_INET6, (self.host, self.port)
        return None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class PortRanges:
    """A set of ports, such as ``8000-8999,9443``.

    :ivar ranges: pairs of first and last port, in ascending order, without overlap.
    """

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read comma-separated ports and ranges of ports; ``none`` is the empty set.

        :raises ConfigError: a part is neither a port from 1 to 65535 nor a range of such ports.
        """
        if text.strip() == "none":
            return cls(())
        found = []
        for part in text.split(","):
            first, dash, last = (piece.strip() for piece in part.partition("-"))
            low = port_number(first, text, 1, "write ports and ranges such as 8000-8999,9443")
            high = port_number(last, text, 1, "write ports and ranges such as 8000-8999,9443") if dash else low
            if high < low:
                raise ConfigError(f"'{part.strip()}' ends before it begins; write {high}-{low}")
            found.append((low, high))
        merged: list[tuple[int, int]] = []
        for low, high in sorted(found):
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        return cls(tuple(merged))

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and any(low <= port <= high for low, high in self.ranges)

    def __str__(self) -> str:
        return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self.ranges) or "none"


def host_and_port(text: str, forms: str, example_port: int, lowest: int) -> tuple[str, int]:
    """Read one of the short forms.

    :param forms: what an error message tells the operator to write.
    :param example_port: the port that an error message suggests if the port is missing.
    :param lowest: the lowest port that is allowed: 0 to listen, 1 to dial.
    :returns: the host, empty if none was given, an IPv6 address without its brackets; and the port.
    :raises ConfigError: it is something else.
    """
    if text.isascii() and text.isdigit():
        return "", port_number(text, text, lowest, forms)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not is_ipv6(host):
            raise ConfigError(f"'{text}' does not begin with an IPv6 address in brackets; write [::1]:{example_port}")
        if not rest.startswith(":"):
            raise ConfigError(f"'{text}' has no port; write [{host}]:{example_port}")
        return host, port_number(rest[1:], text, lowest, forms)
    host, colon, port = text.rpartition(":")
    if is_ipv6(host) and port.isdigit():
        raise ConfigError(f"'{text}' is an IPv6 address without brackets; write [{host}]:{port}")
    if is_ipv6(text):
        raise ConfigError(f"'{text}' is an IPv6 address without brackets; write [{text}]:{example_port}")
    if not colon:
        host_name(text, text)
        raise ConfigError(f"'{text}' has no port; write {text}:{example_port}")
    if not port:
        raise ConfigError(f"'{text}' has no port after the colon; write {text}{example_port}")
    number = port_number(port, text, lowest, forms)
    return (host_name(host, text) if host else ""), number


def _attempt(build: Any, text: str, forms: str) -> None:
    """Build an endpoint without a reactor, to find errors that only Twisted or a plugin notices."""
    from twisted.internet import endpoints

    if endpoints.TLSMemoryBIOFactory is None and not text.startswith("systemd:"):
        raise ConfigError(f"'{text}' is an endpoint of a plugin, and this process has begun without any; restart it")
    try:
        build(_NoReactor())
    except ConfigError:
        raise
    except LookupError as error:
        if text.startswith("systemd:"):
            raise ConfigError(f"'{text}': systemd passed no such socket; start this from its .socket unit") from error
        raise ConfigError(f"'{text}' is not an endpoint that Twisted can build ({error!r}); {forms}") from error
    except Exception as error:
        raise ConfigError(f"'{text}' is not an endpoint that Twisted can build ({error}); {forms}") from error
