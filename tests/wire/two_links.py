"""Two links between which everything happens in random order, and what must hold of them at every moment."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from rtunnel.errors import Refused
from rtunnel.wire.events import FrameIgnored, LinkFailed, StreamOpened
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link import Link
from rtunnel.wire.stream import Stream
from tests.wire.pair import Pair

PATTERN = bytes(range(251)) * 400
CLIENT = LinkLimits(initial_credit=60, max_window=400, link_buffer=1000, max_streams=5)
SERVER = LinkLimits(initial_credit=90, max_window=300, link_buffer=600, max_streams=4)


class TwoLinks:
    """The links, and the ends of their streams, each with ``link``, ``stream``, ``sent``, ``received`` and ``take``."""

    def __init__(self, *, reference: bool, piece: int) -> None:
        self.pair = Pair(CLIENT, SERVER, reference=reference, piece=piece)
        self.links: list[Link] = [self.pair.client, self.pair.server]
        self.ends: list[Any] = []
        self.twins: dict[int, list[Any]] = {}
        self.counted: Counter[Link] = Counter()
        for link in self.links:
            link.on_stream_count = partial(self.count, link)

    def count(self, link: Link, change: int) -> None:
        assert change
        self.counted[link] += change

    def meet(self, link: Link, stream: Stream) -> None:
        """Add an end for a stream that one of the links has opened."""
        raise NotImplementedError

    def open(self) -> None:
        """Open a stream, if the server may have one more."""
        server = self.pair.server
        try:
            self.meet(server, server.open_stream(0, ""))
        except Refused:
            assert server.stream_count == SERVER.max_streams or (
                server._granted + SERVER.initial_credit > SERVER.link_buffer
            )

    def look(self) -> None:
        """Take all events, and check the invariants."""
        for link in self.links:
            for event in link.take_events():
                assert not isinstance(event, LinkFailed)
                assert not isinstance(event, FrameIgnored) or event.is_normal
                if isinstance(event, StreamOpened):
                    self.meet(link, event.stream)
                elif (stream := getattr(event, "stream", None)) is not None:
                    stream.owner.take(event)
            self.check(link)
        for twins in self.twins.values():
            for end, other in zip(twins, reversed(twins), strict=True):
                sent = PATTERN[: other.sent] if len(twins) == 2 else b""
                assert sent.startswith(end.received)

    def check(self, link: Link) -> None:
        mine = [end.stream for end in self.ends if end.link is link]
        assert {stream.conn_id: stream for stream in mine if stream.open} == link.streams
        held = [stream for stream in mine if stream.open or stream.lingering]
        assert link.stream_count == self.counted[link] == len(held)
        if not link.is_extended:
            assert link._granted == sum(stream.receive_window.waiting for stream in held)
            return
        assert link._granted == sum(stream.receive_window.reserved for stream in held) <= link.limits.link_buffer
        for stream in held:
            window = stream.receive_window
            assert stream.send_window.sent <= stream.send_window.limit
            assert window.delivered <= window.received <= window.limit
            assert window.limit - window.delivered <= window.reserved <= link.limits.max_window

    def check_end(self) -> None:
        """Check that the links hold nothing when all streams are over."""
        for link in self.links:
            self.check(link)
            assert link.streams == {}
            assert link.lingering == set()
            assert link.stream_count == link._granted == 0
            assert not link._credit_due
            assert not link._stalled
            assert not link._broken
        assert self.pair.ids._live == set()
