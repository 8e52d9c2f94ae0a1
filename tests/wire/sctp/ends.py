"""Our associations on the bed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rtunnel.wire.sctp.association import Association
from rtunnel.wire.sctp.chunks import I_DATA, I_FORWARD_TSN
from rtunnel.wire.sctp.events import AssociationLimits, Down, StreamsReset, Up
from tests.wire.sctp.bed import Bed, End, Link
from tests.wire.sctp.ledger import Ledger, ledgers

PORT = 5000
#: The largest packet that a DTLS record takes, in bytes.
LARGEST = 16_320
#: Seconds in which a test's associations are up, whatever is lost at first.
UP_IN = 300.0


def make(entropy: Callable[[int], bytes], more: Callable[[], None], now: float, **limits: int) -> Association:
    return Association(PORT, PORT, AssociationLimits(**{"largest_packet": LARGEST, **limits}), entropy, more, now)


def seen(end: End, kind: type) -> list[Any]:
    """The events of a kind that came out of an association."""
    return [event for _, event in end.events if isinstance(event, kind)]


def is_up(*ends: End) -> bool:
    return all(seen(end, Up) for end in ends)


def make_plain(entropy: Callable[[int], bytes], more: Callable[[], None], now: float) -> Association:
    """An association that does not mix the fragments of messages, as with most other stacks (no I-DATA)."""
    association = make(entropy, more, now)
    ours = association._handshake.ours
    association._handshake.ours = replace(ours, extensions=ours.extensions - {I_DATA, I_FORWARD_TSN})
    return association


class Pair:
    """Two ends that are connected, with the books of both directions.

    :param plain: whether messages are not mixed.
    :ivar there: the books of what the first end sends.
    :ivar back: of what the second one sends.
    """

    def __init__(self, there: Link, back: Link, seed: int = 0, bed: Bed | None = None, *, plain: bool = False) -> None:
        self.bed = bed or Bed(seed)
        self.one, self.two = self.bed.pair(make_plain if plain else make, there, back)
        self.there, self.back = ledgers(self.one, self.two)
        self.bed.connect(self.one, self.two)
        assert self.bed.run(UP_IN, lambda: is_up(self.one, self.two)), "no handshake"

        assert self.one.association.interleaved is not plain

    @property
    def books(self) -> tuple[Ledger, Ledger]:
        return self.there, self.back

    def turn(self) -> None:
        """Do this after anything was sent."""
        self.one.turn()
        self.two.turn()

    def all_arrives(self, seconds: float) -> None:
        """Let time pass until all that must arrive is there, which takes so long at most."""
        self.turn()
        arrived = self.bed.run(seconds, lambda: not self.there.owed and not self.back.owed)
        assert not seen(self.one, Down) + seen(self.two, Down)
        assert arrived, f"after {seconds} s {self.there.owed} and {self.back.owed} messages are missing"

    def is_calm(self) -> None:
        """When nothing is sent there are heartbeats and no more than that, and nothing is forgotten by then."""
        self.bed.run(200)
        before = self.one.packets + self.two.packets
        self.bed.run(300)
        assert self.one.packets + self.two.packets - before < 60


__all__ = ["PORT", "Down", "Ledger", "Pair", "StreamsReset", "Up", "is_up", "make", "seen"]
