"""A token bucket: so many a second, and bursts."""

from __future__ import annotations

from rtunnel.upkeep.token_bucket import MOST_KEYS, KeyedBuckets, TokenBucket


def test_all_at_once_and_then_at_the_rate() -> None:
    bucket = TokenBucket(4, 10, 100.0)
    assert bucket.left(100.0) == 10
    bucket.spend(10)
    assert bucket.left(100.0) == 0
    assert bucket.left(100.2) == 0
    assert bucket.left(100.25) == 1
    bucket.spend(1)
    assert bucket.left(101.25) == 4


def test_what_is_kept_is_bounded() -> None:
    bucket = TokenBucket(4, 10, 0.0)
    bucket.spend(1)
    assert bucket.left(1000.0) == 10


def test_parts_of_one_add_up() -> None:
    """However often it is asked."""
    bucket = TokenBucket(1, 5, 0.0)
    bucket.spend(5)
    for step in range(1, 31):
        left = bucket.left(step / 8)
    assert left == 3


def test_one_at_a_time() -> None:
    bucket = TokenBucket(2, 3, 100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(now) for now in (100.25, 100.5, 100.75, 101.0)] == [False, True, False, True]


def test_what_was_refused_is_not_owed() -> None:
    bucket = TokenBucket(1, 1, 0.0)
    assert [bucket.take(0.0) for _ in range(100)] == [True] + [False] * 99
    assert bucket.take(1.0)


def test_more_than_there_is_may_be_spent_and_is_owed() -> None:
    bucket = TokenBucket(2, 3, 0.0)
    bucket.spend(5)
    assert bucket.level(0.0) == -2
    assert not bucket.take(1.0)
    assert bucket.take(1.5)


def keyed(now: float = 0.0) -> KeyedBuckets:
    """Ten for each key, one more a second; a hundred for all, five more a second."""
    return KeyedBuckets(1, 10, 5, 100, now)


def test_each_key_has_its_own() -> None:
    buckets = keyed()
    assert [buckets.take("a", 6, 0.0) for _ in range(2)] == [True, False]
    assert buckets.take("b", 10, 0.0)
    assert not buckets.take("a", 6, 1.9)
    assert buckets.take("a", 6, 2.0)


def test_the_total_ends_before_all_keys_have_spent_theirs() -> None:
    buckets = keyed()
    taken = sum(buckets.take(key, 1, 0.0) for key in range(1000) for _ in range(10))
    assert taken <= 100


def test_who_takes_little_goes_before_those_who_take_all_they_can() -> None:
    """Even if their own buckets together fill four times as fast as the common one."""
    buckets = keyed()
    taken = 0
    for now in range(200):
        if now % 5 == 4:
            assert buckets.take("honest", 1, float(now))
        for flooder in range(20):
            while buckets.take(flooder, 1, float(now)):
                taken += 1
    assert 900 <= taken <= 100 + 200 * 5


def test_what_is_owed_is_paid_before_anything_else() -> None:
    buckets = keyed()
    assert buckets.has("a", 0, 0.0)
    buckets.spend("a", 12, 0.0)
    assert not buckets.has("a", 0, 1.0)
    assert buckets.has("a", 0, 2.0)
    assert buckets.has("b", 10, 0.0)


def test_a_key_that_owes_nothing_waits_while_there_is_nothing_to_spare() -> None:
    buckets = keyed()
    buckets.spend("a", 5, 0.0)
    buckets.spend("b", 75, 0.0)
    assert not buckets.has("a", 0, 0.0)
    assert buckets.has("c", 0, 0.0)
    assert buckets.has("a", 0, 3.0)


def test_full_buckets_are_forgotten() -> None:
    buckets = keyed()
    for key in range(50):
        buckets.spend(key, 1, 0.0)
    buckets.spend("a", 9, 0.0)
    assert len(buckets) == 51
    buckets.spend("b", 1, 2.0)
    assert len(buckets) == 2


def test_the_table_is_bounded() -> None:
    """One more pushes out the key that has spent nothing for longest."""
    buckets = KeyedBuckets(1, 10, 5, 1_000_000, 0.0)
    buckets.spend("a", 10, 0.0)
    for key in range(MOST_KEYS - 2):
        buckets.spend(key, 5, 0.0)
    buckets.spend("a", 0, 0.0)
    for key in range(MOST_KEYS - 2):
        buckets.spend(str(key), 5, 0.0)
    assert len(buckets) == MOST_KEYS
    assert not buckets.has("a", 1, 0.0)
    buckets.spend("one more", 5, 0.0)
    buckets.spend("and one more", 5, 0.0)
    assert len(buckets) == MOST_KEYS
    assert buckets.has("a", 10, 0.0)
