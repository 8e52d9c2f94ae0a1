"""Token buckets: rate limits that allow bursts, for one or for everybody by address or name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

#: How many keys :class:`KeyedBuckets` remembers. Beyond that, the one that has spent nothing for longest is forgotten.
MOST_KEYS = 4096
#: The share of the total that is left to keys that have spent little.
RESERVE = 1 / 2


class TokenBucket:
    """A token bucket. It starts full, and holds at most *size* tokens.

    :param rate: tokens added per second.
    :param size: the longest burst.
    :param now: seconds, on a clock that does not run backwards.
    :ivar rate: tokens added per second.
    """

    def __init__(self, rate: float, size: float, now: float) -> None:
        self.rate = rate
        self._size = size
        self._tokens = float(size)
        self._filled_at = now

    def left(self, now: float) -> int:
        """Return how many whole tokens are left."""
        return int(self.level(now))

    def level(self, now: float) -> float:
        """Return what is left: below 0 if more was spent than there was."""
        self._tokens = min(self._size, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        return self._tokens

    def spend(self, count: float) -> None:
        """Remove *count* tokens, of which :meth:`left` or :meth:`level` has just been asked."""
        self._tokens -= count

    def take(self, now: float) -> bool:
        """Remove one token; return whether there was one."""
        if self.left(now) < 1:
            return False
        self._tokens -= 1
        return True


class KeyedBuckets:
    """A token bucket for each key, such as an address, and one for all keys together.

    The more a key has spent of its own bucket, the more must be left in the common one before it gets anything: up to
    :data:`RESERVE` of it. So keys that take all they can do not keep out one that takes little. While less than that is
    left, no key's own bucket fills faster than a fair share of the common one does, or those that take all they can
    would look modest because they have to wait.

    :param rate: tokens added per second for each key.
    :param size: the longest burst of a key.
    :param total_rate: tokens added per second for all keys.
    :param total_size: the longest burst of all keys.
    :param now: seconds, on a clock that does not run backwards.
    """

    def __init__(self, rate: float, size: float, total_rate: float, total_size: float, now: float) -> None:
        self._rate = rate
        self._size = size
        self._reserve = total_size * RESERVE
        self._total = TokenBucket(total_rate, total_size, now)
        # The one that has spent nothing for longest comes first.
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def has(self, key: Hashable, amount: float, now: float) -> bool:
        """Return whether *key* may spend *amount*. With 0: whether it owes nothing, and others can spare some."""
        bucket = self._buckets.get(key)
        own = self._size if bucket is None else self._level(bucket, now)
        if own < amount:
            return False
        return self._total.level(now) - amount >= self._reserve * (1 - own / self._size)

    def spend(self, key: Hashable, amount: float, now: float) -> None:
        """Let *key* spend *amount*, which may be more than it has; then it owes the rest."""
        bucket = self._buckets.get(key)
        if bucket is None:
            self._forget(now)
            bucket = self._buckets[key] = TokenBucket(self._rate, self._size, now)
        self._buckets.move_to_end(key)
        self._level(bucket, now)
        bucket.spend(amount)
        self._total.spend(amount)

    def _level(self, bucket: TokenBucket, now: float) -> float:
        is_scarce = self._total.level(now) < self._reserve
        bucket.rate = min(self._rate, self._total.rate / len(self._buckets)) if is_scarce else self._rate
        return bucket.level(now)

    def take(self, key: Hashable, amount: float, now: float) -> bool:
        """Let *key* spend *amount* if it may; return whether it did."""
        if not self.has(key, amount, now):
            return False
        self.spend(key, amount, now)
        return True

    def _forget(self, now: float) -> None:
        """Forget keys whose bucket is full again, as an unknown key has a full one, and make room for one more."""
        while self._buckets:
            key, bucket = next(iter(self._buckets.items()))
            if self._level(bucket, now) < self._size and len(self._buckets) < MOST_KEYS:
                break
            del self._buckets[key]
