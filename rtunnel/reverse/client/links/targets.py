"""Where the links of a client can lead: to its servers, or to single addresses of their names.

With one link, a server is dialled by its name, all of whose addresses are tried at a time. Several links must not lead
to one address, so then each address of a name is a target of its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from rtunnel.addresses import DialAddress
from rtunnel.names import IPAddress, dialled, look_up, prefer
from rtunnel.reverse.settings import ClientSettings


@dataclass(frozen=True, slots=True)
class Target:
    """One place.

    :ivar server: as the operator wrote it.
    :ivar ip: which address of its name; empty: it is dialled as it was written.
    :ivar problem: why its name has no address; None: it has one, or nobody has asked.
    """

    server: DialAddress
    ip: str = ""
    problem: Exception | None = field(default=None, compare=False)

    @property
    def address(self) -> DialAddress:
        """What to dial."""
        return replace(self.server, host=self.ip) if self.ip else self.server

    @property
    def key(self) -> Hashable:
        """What two targets have in common that are the same place."""
        address = self.address
        return address.description if address.host is None else address_key(address.host, address.port)

    def __str__(self) -> str:
        return f"{self.server} at {self.ip}" if self.ip else str(self.server)


def address_key(host: str, port: int | None) -> Hashable:
    """Return what all spellings of a host and port have in common."""
    try:
        return str(ip_address(host)), port
    except ValueError:
        return host.lower(), port


def _is_name(host: str | None) -> bool:
    try:
        ip_address(host or "")
    except ValueError:
        return host is not None
    return False


async def find_targets(reactor: Any, settings: ClientSettings) -> list[Target]:
    """Return where the links may lead, each place once, in the order of the settings.

    The names are looked up at the same time. One that has no address is a target with a :attr:`Target.problem`.
    """
    divides = settings.links > 1 and settings.via is None
    found: list[list[Target]] = [[Target(server)] for server in settings.servers]
    asking: list[Deferred[Any]] = []
    for number, server in enumerate(settings.servers):
        if divides and server.host is not None and _is_name(server.host):
            looking = look_up(reactor, server.host, server.port or 0)
            looking.addTimeout(settings.connect_timeout, reactor)

            def looked_up(addresses: list[IPAddress], number: int = number, server: DialAddress = server) -> None:
                found[number] = [Target(server, dialled(address)) for address in prefer(addresses, "")]

            def failed(failure: Any, number: int = number, server: DialAddress = server) -> None:
                found[number] = [Target(server, problem=failure.value)]

            asking.append(looking.addCallbacks(looked_up, failed))
    if asking:
        await DeferredList(asking)
    once: dict[Hashable, Target] = {}
    for target in (each for targets in found for each in targets):
        once.setdefault(target.key, target)
    return list(once.values())


def in_turn(targets: list[Target], last: Hashable, left: Hashable) -> list[Target]:
    """Return targets in the order in which to try them.

    :param last: the key of the one that worked last, which comes first.
    :param left: the key of one that has sent us away or is silent, which comes last even then.
    """
    return sorted(targets, key=lambda target: (target.key == left, target.key != last))
