"""What each client uses at a host: its streams by service, its bytes, and the bandwidth that it may have.

    Uses -- ClientUse   one client, over all its peer connections
             +-- ServiceUse   what it uses of one service

A connection or flow of a client without a limit is only counted. With a limit it has a :class:`Meter`, which may also
come while it lasts; see :mod:`rtunnel.shaping`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary, ref

from rtunnel.access.peers.rights import EVERYTHING, ClientRights
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.shaping.ends import MeteredEnd, limit_end
from rtunnel.shaping.shaper import Lane, Shaper, piece_for

#: Bytes a second where there is no limit any more.
ANY = 1e12
#: Why a datagram is lost that is more than a client may pass.
TOO_FAST = "they are more than the bandwidth of the client"


class IRelay(Protocol):
    """Counts what passes: a :class:`SocketEnd`, or a :class:`~rtunnel.relay.udp.flows.Flow`."""

    bytes_received: int
    bytes_sent: int


class Meter:
    """Measures what passes of one connection.

    :ivar bandwidths: what it must not outrun.
    :ivar up: from the service to the client.
    :ivar down: from the client to the service.
    :ivar piece: how many bytes are to pass at a time.
    """

    __slots__ = ("bandwidths", "down", "piece", "up")

    def __init__(self, bandwidths: Sequence[Bandwidth]) -> None:
        self.bandwidths = bandwidths
        self.up = Lane([each.up for each in bandwidths], ())
        self.down = Lane([each.down for each in bandwidths], ())
        self.piece = piece_for(min((each.rate for each in bandwidths), default=None))

    def attach(self, go_up: Callable[[], bool], go_down: Callable[[], bool], abort: Callable[[], object]) -> None:
        """See :class:`~rtunnel.shaping.ends.IMeter`."""
        self.up.go, self.down.go = go_up, go_down

    def close(self) -> None:
        """See :class:`~rtunnel.shaping.ends.IMeter`."""
        self.up.close()
        self.down.close()


class Bandwidth:
    """So many bytes a second in each direction. It may change."""

    def __init__(self, clock: Any, rate: float) -> None:
        self.rate = rate
        self.up, self.down = Shaper(clock, rate), Shaper(clock, rate)

    def change(self, rate: float) -> None:
        """Let *rate* bytes a second pass from now on."""
        if rate != self.rate:
            self.rate = rate
            self.up.set_rate(rate)
            self.down.set_rate(rate)


class ServiceUse:
    """What a client uses of one service.

    :ivar live: the connections and flows that there are.
    :ivar streams: how many there have been.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.live: set[Any] = set()
        self.streams = 0
        self.bandwidth: Bandwidth | None = None
        self._came = self._went = 0

    @property
    def totals(self) -> tuple[int, int]:
        """How many bytes have come from the client, and how many went to it."""
        came = self._came + sum(each.bytes_sent for each in self.live)
        return came, self._went + sum(each.bytes_received for each in self.live)

    def begin(self, relay: IRelay) -> None:
        """Count a connection or flow."""
        self.live.add(relay)
        self.streams += 1

    def over(self, relay: IRelay) -> None:
        """Count it no longer; what it has carried stays. May be called twice."""
        if relay in self.live:
            self.live.remove(relay)
            self._came += relay.bytes_sent
            self._went += relay.bytes_received


class ClientUse:
    """What one client uses, and may use.

    :ivar name: what the host calls it.
    :ivar rights: what it may do.
    """

    def __init__(self, clock: Any, name: str, rights: ClientRights) -> None:
        self._clock = clock
        self.name = name
        self.rights = EVERYTHING
        self._services: dict[str, ServiceUse] = {}
        self._bandwidth: Bandwidth | None = None
        self.change(rights)

    def __iter__(self) -> Iterator[ServiceUse]:
        """The services that it has used."""
        return iter(self._services.values())

    @property
    def streams(self) -> int:
        """How many connections and flows it has."""
        return sum(len(each.live) for each in self)

    def streams_of(self, service: str) -> int:
        """Return how many of them lead to *service*."""
        found = self._services.get(service)
        return 0 if found is None else len(found.live)

    def change(self, rights: ClientRights) -> None:
        """Let it have other rights from now on. Connections that exist get another bandwidth."""
        if rights == self.rights:
            return
        self.rights = rights
        self._bandwidth = self._changed(self._bandwidth, rights.rate)
        for use in self:
            self._limit(use)

    def _changed(self, bandwidth: Bandwidth | None, rate: int | None) -> Bandwidth | None:
        if bandwidth is None:
            return None if rate is None else Bandwidth(self._clock, rate)
        # Whoever is measured goes on with this one.
        bandwidth.change(rate or ANY)
        return bandwidth

    def _limit(self, use: ServiceUse) -> None:
        own = self.rights.of_service.get(use.name)
        use.bandwidth = self._changed(use.bandwidth, None if own is None else own.rate)
        for end in list(use.live):
            if isinstance(end, SocketEnd):
                self._measure(end, use)

    def _bandwidths(self, use: ServiceUse) -> list[Bandwidth]:
        return [each for each in (use.bandwidth, self._bandwidth) if each is not None]

    def _measure(self, end: SocketEnd, use: ServiceUse) -> None:
        bandwidths = self._bandwidths(use)
        is_measured = (
            isinstance(end, MeteredEnd) and isinstance(end.meter, Meter) and end.meter.bandwidths == bandwidths
        )
        if bandwidths and not is_measured:
            limit_end(end, Meter(bandwidths))

    def _use(self, service: str) -> ServiceUse:
        use = self._services.get(service)
        if use is None:
            use = self._services[service] = ServiceUse(service)
            self._limit(use)
        return use

    def serve(self, end: SocketEnd, service: str) -> None:
        """Count *end*, which connects it to a service, and measure what passes. Call this before it has a stream."""
        use = self._use(service)
        use.begin(end)
        # No circle: see docs/architecture.rst.
        reference = ref(end)

        def lost() -> None:
            gone = reference()
            if gone is not None:
                use.over(gone)
            if isinstance(gone, MeteredEnd):
                gone.meter.close()

        end.call_when_lost(lost)
        self._measure(end, use)

    def flow(self, service: str) -> FlowUse:
        """Return what counts and measures one flow to a service of UDP."""
        return FlowUse(self, self._use(service))

    def passes(self, use: ServiceUse, count: int, *, down: bool) -> bool:
        """Let a datagram pass, now or never; return whether it does.

        :param down: it goes to the service.
        """
        bandwidths = self._bandwidths(use)
        shapers = [each.down if down else each.up for each in bandwidths]
        return not shapers or Lane(shapers, ()).take(count)


class FlowUse:
    """One flow's part of it."""

    __slots__ = ("_client", "_use")

    def __init__(self, client: ClientUse, use: ServiceUse) -> None:
        self._client = client
        self._use = use

    def begin(self, flow: IRelay) -> None:
        """Count the flow."""
        self._use.begin(flow)

    def over(self, flow: IRelay) -> None:
        """Count it no longer."""
        self._use.over(flow)

    def passes(self, count: int, *, down: bool) -> bool:
        """See :meth:`ClientUse.passes`."""
        return self._client.passes(self._use, count, down=down)


class Uses:
    """What all clients of a host use. A client that comes back while its last connection lasts is the same."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._clients: WeakValueDictionary[str, ClientUse] = WeakValueDictionary()

    def alone(self, name: str) -> ClientUse:
        """Return what a client uses whose name proves nothing, as its channels are not sealed: it has its own.

        :param name: the ID that it gives itself.
        """
        return ClientUse(self._clock, name, EVERYTHING)

    def of(self, party: str, name: str, rights: ClientRights = EVERYTHING) -> ClientUse:
        """Return what a client uses, which has these rights from now on.

        :param party: who it is: see :class:`rtunnel.access.trust.Verdict`.
        :param name: what the host calls it.
        """
        found = self._clients.get(party)
        if found is None:
            found = self._clients[party] = ClientUse(self._clock, name, rights)
        else:
            found.name = name
            found.change(rights)
        return found
