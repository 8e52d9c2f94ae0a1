"""Flows of visitors, who share the places by address.

An address can be made up in UDP. So flows of which nobody knows whether their visitor gets the answers make room first,
and among them those of the address that has most.
"""

from __future__ import annotations

from typing import Any

from rtunnel.relay.sockets import text_prefix
from rtunnel.relay.udp.flows import Flow, FlowTable
from rtunnel.upkeep.places import Places

#: The part of the places that flows may have which have not gone both ways twice, at the cost of those that have.
UNPROVED = 1 / 4
#: After so many answers that the visitor has asked further questions, it is taken to get them.
PROVED = 2
#: How many flows of the heaviest addresses are compared to find one that is idle.
COMPARED = 8


class SharedFlowTable(FlowTable):
    """The flows of one public port, or of a client. Their names are the addresses of visitors.

    The parameters are those of :class:`FlowTable`.
    """

    def __init__(self, clock: Any, max_flows: int, idle: float | None) -> None:
        super().__init__(clock, max_flows, idle)
        # Of flows that are not proved, and of those that are.
        self._places: tuple[Places[Flow], Places[Flow]] = Places(), Places()

    def add(self, flow: Flow) -> None:
        """See :class:`FlowTable`."""
        super().add(flow)
        self._places[0].add(flow, text_prefix(flow.name))

    def count(self, address: str) -> int:
        """Return how many flows an address has.

        :param address: the key under which it is counted.
        """
        return sum(len(places.of(address)) for places in self._places)

    def use(self, flow: Flow, *, answer: bool) -> None:
        """See :class:`FlowTable`."""
        super().use(flow, answer=answer)
        if flow.exchanges == PROVED and self._places[0].discard(flow):
            self._places[1].add(flow, text_prefix(flow.name))

    def discard(self, flow: Flow) -> None:
        """See :class:`FlowTable`."""
        super().discard(flow)
        for places in self._places:
            places.discard(flow)

    def _next_to_go(self) -> Flow:
        unproved, proved = self._places
        crowd = unproved if len(unproved) > self.max_flows * UNPROVED or not len(proved) else proved
        compared = []
        for _ in range(min(COMPARED, len(crowd))):
            holder, flow = crowd.heaviest, crowd.first_to_go
            compared.append(flow)
            # It goes behind the others of this address, and the address behind others that have as many.
            crowd.discard(flow)
            crowd.add(flow, holder)
        return min(compared, key=lambda flow: flow.last_used)
