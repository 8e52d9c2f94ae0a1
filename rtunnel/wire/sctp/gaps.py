"""What arrived behind a gap, by what SACKs say (RFC 9260, section 3.3.4)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

#: The first and the last TSN of what arrived behind a gap.
Block = tuple[int, int]


class Gaps:
    """All that was reported by gap blocks, and is not covered by the cumulative TSN yet.

    What one SACK has said is known for good: a peer that takes it back, and says it again, costs nothing.

    :ivar count: how many TSNs.
    """

    __slots__ = ("_firsts", "_lasts", "count")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self.count = 0

    def add(self, first: int, last: int) -> list[Block]:
        """Add a block, and return what of it was not known. The cost is that of what is new."""
        firsts, lasts = self._firsts, self._lasts
        begin, end = bisect_left(lasts, first), bisect_right(firsts, last)
        news: list[Block] = []
        at = first
        for known in range(begin, end):
            if at < firsts[known]:
                news.append((at, firsts[known] - 1))
            at = lasts[known] + 1
        if at <= last:
            news.append((at, last))
        if news:
            if begin < end:
                first, last = min(first, firsts[begin]), max(last, lasts[end - 1])
            firsts[begin:end], lasts[begin:end] = [first], [last]
            self.count += sum(last - first + 1 for first, last in news)
        return news

    def pass_to(self, cumulative: int) -> None:
        """Forget what is acknowledged by the cumulative TSN."""
        firsts, lasts = self._firsts, self._lasts
        gone = bisect_right(lasts, cumulative)
        self.count -= sum(lasts[at] - firsts[at] + 1 for at in range(gone))
        del firsts[:gone], lasts[:gone]
        if firsts and firsts[0] <= cumulative:
            self.count -= cumulative + 1 - firsts[0]
            firsts[0] = cumulative + 1
