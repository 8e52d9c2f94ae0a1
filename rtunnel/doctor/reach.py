"""The way to one TCP port: its name, the route to its addresses, and whether it is open."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any

import ifaddr
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError, DNSLookupError, TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IStreamClientEndpoint

from rtunnel.addresses import DialAddress
from rtunnel.doctor.steps import WITHIN, Found, Status, Trouble
from rtunnel.endpoint_strings import is_ipv4, is_ipv6
from rtunnel.name_endpoint import NameEndpoint
from rtunnel.names import IPAddress, dialled, look_up
from rtunnel.reasons import reason_of
from rtunnel.relay.sockets import format_host_port
from rtunnel.services.watch import try_service

#: Addresses of one name that are tried.
MOST_ADDRESSES = 8


class Reach:
    """The way to one port.

    :param address: where it is.
    :param what: who should be there, such as ``the server``.
    :param remedy: what to do where nobody listens, as a sentence.
    :ivar addresses: its IP addresses, once they are known.
    """

    def __init__(self, reactor: Any, address: DialAddress, what: str, remedy: str) -> None:
        self.addresses: Sequence[IPAddress] = ()
        self._reactor = reactor
        self._address = address
        self._what = what
        self._remedy = remedy

    async def name(self) -> Found:
        """Look the name up."""
        host, port = self._address.host, self._address.port
        if host is None or port is None:
            return Found(f"{self._address} needs none")
        if is_ipv4(host) or is_ipv6(host):
            bare, _, zone = host.partition("%")
            self.addresses = [
                IPv4Address("TCP", host, port) if is_ipv4(host) else IPv6Address("TCP", bare, port, 0, zone or 0)
            ]
            return Found(f"{host} is an address")
        try:
            found = await look_up(self._reactor, host, port)
        except DNSLookupError as error:
            raise Trouble(
                str(error.args[0]),
                f"Is '{host}' spelt right? 'getent hosts {host}' shows what this machine makes of it; if other names "
                "do not resolve either, its name server is the problem.",
            ) from error
        self.addresses = found[:MOST_ADDRESSES]
        return Found(f"{host} is {', '.join(one.host for one in self.addresses)}")

    async def route(self) -> Found:
        """Find from which addresses of this machine the way begins. Nothing is sent."""
        if not self.addresses:
            return Found("not needed")
        ways = [(one, *_way_to(one)) for one in self.addresses]
        text = "; ".join(f"to {one.host} {way or f'no way: {why}'}" for one, way, why in ways)
        if not any(way for _, way, _ in ways):
            raise Trouble(
                text,
                "This machine has no route there. 'ip route get ADDRESS' shows what the system makes of it; does it "
                "have a network, and IPv6 if that is an IPv6 address?",
            )
        self.addresses = [one for one, way, _ in ways if way]
        return Found(text)

    async def port(self) -> Found:
        """Connect, and close the connection without a byte."""
        whole = self._address.endpoint(self._reactor, WITHIN)
        if not self.addresses:
            tries = [(str(self._address), whole)]
        elif isinstance(whole, NameEndpoint):
            tries = [(format_host_port(one.host, one.port), whole.at(one)) for one in self.addresses]
        else:
            tries = [(format_host_port(one.host, one.port), whole) for one in self.addresses]
        outcomes: list[tuple[float, Exception | None]] = await gatherResults(
            [Deferred.fromCoroutine(self._try(endpoint)) for _, endpoint in tries]
        )
        results = list(zip([place for place, _ in tries], outcomes, strict=True))
        text = "; ".join(
            f"{place} {f'is open ({1000 * seconds:.0f} ms)' if error is None else _why_closed(error)}"
            for place, (seconds, error) in results
        )
        errors = [error for _, (_, error) in results if error is not None]
        if len(errors) == len(results):
            raise Trouble(text, self._advice(errors[0]))
        if errors:
            advice = (
                f"{self._what[0].upper()}{self._what[1:]} does not answer at all of its addresses, so connections may "
                "take longer. Let it listen there too, or take those addresses out of the DNS."
            )
            return Found(text, advice, Status.WARN)
        return Found(text)

    async def _try(self, endpoint: IStreamClientEndpoint) -> tuple[float, Exception | None]:
        began = self._reactor.seconds()
        try:
            await try_service(endpoint)
        except Exception as error:
            return 0.0, error
        return self._reactor.seconds() - began, None

    def _advice(self, error: Exception) -> str:
        port = f"TCP port {self._address.port}" if self._address.port else str(self._address)
        number = _number(error)
        if number == errno.ECONNREFUSED or number in (errno.ENOENT, errno.EACCES):
            return self._remedy
        if isinstance(error, ConnectTimeout) or number == errno.ETIMEDOUT:
            return (
                f"Open {port} in every firewall on the way: that of {self._what}'s machine, of its hosting (security "
                "group), and of this network. If only a proxy gets out of here, name it with --via."
            )
        return f"Is {self._what}'s machine up, and is the address right?"


def _number(error: Exception) -> int | None:
    return error.osError if isinstance(error, ConnectError) else getattr(error, "errno", None)


def _why_closed(error: Exception) -> str:
    number = _number(error)
    if number == errno.ECONNREFUSED:
        return "refuses connections: the machine is there, and nothing listens on that port"
    if isinstance(error, ConnectTimeout) or number == errno.ETIMEDOUT:
        return f"does not answer within {WITHIN:g} s: a firewall drops the packets, or the machine is down"
    return f"cannot be reached: {reason_of(error)}"


def _way_to(address: IPAddress) -> tuple[str, str]:
    """Return from where connections to an address come, such as ``from 10.0.0.5 (eth0)``; or empty, and why not."""
    is_ipv6 = isinstance(address, IPv6Address)
    try:
        with socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # To a numeric address; for UDP this sends nothing.
            [(*_, there), *_] = socket.getaddrinfo(
                dialled(address), address.port or 9, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
            )
            probe.connect(there)
            here = str(probe.getsockname()[0])
    except OSError as error:
        return "", reason_of(error)
    return f"from {here} ({_interface_of(here.partition('%')[0])})", ""


def _interface_of(address: str) -> str:
    for adapter in ifaddr.get_adapters():
        if any((ip.ip if isinstance(ip.ip, str) else ip.ip[0]) == address for ip in adapter.ips):
            return str(adapter.name)
    return "an unknown interface"
