"""What a link needs of all links of its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from rtunnel.reverse.client.links.targets import Target
from rtunnel.reverse.client.tls_hosts import TlsHosts
from rtunnel.reverse.client.wanted import WantedTunnels
from rtunnel.reverse.settings import ClientSettings
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.visitors import Visitors

if TYPE_CHECKING:
    from rtunnel.reverse.client.tls_dialler import TlsDialler


class ILinks(Protocol):
    """All links of the client, and what they share; see :class:`~rtunnel.reverse.client.links.links.Links`."""

    reactor: Any
    settings: ClientSettings
    visitors: Visitors
    memory: Memory
    poller: Any
    hedges: Hedges
    tls_hosts: TlsHosts
    wanted: WantedTunnels

    @property
    def tls(self) -> TlsDialler | None: ...

    @property
    def session_name(self) -> str: ...
    @property
    def has_several(self) -> bool: ...
    def is_free(self, target: Target, link: object) -> bool: ...
    def may_renew(self) -> bool: ...
    def moved(self) -> None: ...
    def are_fewer(self, count: int) -> None: ...
    def are_up(self) -> bool: ...
