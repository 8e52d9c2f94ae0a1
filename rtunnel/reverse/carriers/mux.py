"""Carry visitors over the link: a stream for each, many on one connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rtunnel.errors import Code
from rtunnel.reverse.carriers.link_protocol import LinkProtocol, LinkStream
from rtunnel.reverse.public import Visitor
from rtunnel.traffic.accounts import LINK
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.server_link import ServerLink


class Mux:
    """The carrier that every client has; see :class:`~rtunnel.reverse.carriers.interface.ICarrier`."""

    log = DebugLog()

    def __init__(self, protocol: LinkProtocol, link: ServerLink, visitors: Visitors) -> None:
        self._protocol = protocol
        self._link = link
        self._visitors = visitors

    def open(self, tunnel: int, visitor: Visitor) -> bool:
        """See :class:`ICarrier`."""
        stream = self._link.open_stream(tunnel, visitor.name)
        self.log.debug(
            "visitor {visitor} of tunnel {tunnel} of client {peer}: stream {stream}",
            visitor=visitor.name,
            tunnel=tunnel,
            peer=self._protocol.peer_name,
            stream=stream.conn_id,
        )
        try:
            end = visitor.socket_end()
        except OSError as error:
            self.log.debug("visitor {visitor} is lost: {why}", visitor=visitor.name, why=error)
            self._link.reset(stream, Code.CONNECTION_LOST, "the visitor is lost")
        else:
            visitor.served_by(end, self._visitors, LINK)
            end.attach(LinkStream(self._protocol, stream, end), visitor.first)
        self._protocol.flush()
        return True

    @property
    def has_room(self) -> bool:
        """See :class:`ICarrier`."""
        return self._link.has_room

    def tunnels_changed(self) -> None:
        """See :class:`ICarrier`."""

    def give_back(self, tunnel: int | None = None) -> None:
        """See :class:`ICarrier`. Nobody waits."""

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`ICarrier`. The streams are the link's."""
        return iter(())

    @property
    def stream_count(self) -> int:
        """See :class:`ICarrier`."""
        return 0

    def tick(self, now: float) -> None:
        """See :class:`ICarrier`."""

    def close(self, *, cut: bool, tail: bool = False) -> None:
        """See :class:`ICarrier`. The streams end with the link."""
