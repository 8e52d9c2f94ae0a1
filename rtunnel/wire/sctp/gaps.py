"""What a SACK says that an earlier one has not said (RFC 9260, section 3.3.4)."""

from __future__ import annotations

from collections.abc import Iterable

#: The first and the last TSN of what arrived behind a gap.
Block = tuple[int, int]


def new_gaps(known: list[Block], reported: Iterable[Block], cumulative: int) -> tuple[list[Block], list[Block]]:
    """Compare gap blocks. The cost is that of the blocks, not that of what is in them.

    :param known: the blocks of the last SACK, in order.
    :param reported: the blocks of this one, as offsets from *cumulative*. Blocks out of order are left out: RFC 9260
        does not forbid them, but nobody sends them.
    :returns: TSNs that are reported and were not known; and all blocks, for the next time.
    """
    news: list[Block] = []
    blocks: list[Block] = []
    at_known, behind = 0, cumulative
    for offset, end in reported:
        first, last = cumulative + offset, cumulative + end
        if not behind < first <= last:
            continue
        behind = last
        blocks.append((first, last))
        while first <= last:
            while at_known < len(known) and known[at_known][1] < first:
                at_known += 1
            if at_known == len(known):
                news.append((first, last))
                break
            known_first, known_last = known[at_known]
            if first < known_first:
                news.append((first, min(last, known_first - 1)))
            first = known_last + 1
    return news, blocks
