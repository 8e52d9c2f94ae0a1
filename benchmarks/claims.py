"""How fast one node claims keys of the directory, and nothing else: ``python -m benchmarks.claims URL COUNT AT_ONCE``.

Prints claims per second, and the CPU seconds of this process for each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import cooperate, deferLater, react

from rtunnel.cluster.redis import RedisDirectory
from rtunnel.cluster.settings import cluster_url


async def measure(reactor: Any, url: str, count: int, at_once: int) -> dict[str, float]:
    """Return how many keys one node claims in a second, and its CPU seconds for each."""
    where = cluster_url(url)
    assert where is not None
    directory = RedisDirectory(reactor, where)
    directory.startService()
    while directory.why_away:
        await deferLater(reactor, 0.01)
    began, spent = time.monotonic(), time.process_time()

    def claims() -> Iterator[Deferred[Any]]:
        for number in keys:
            yield Deferred.fromCoroutine(directory.claim(f"host h{number}.example.org", "owner", lambda why: None))

    keys = iter(range(count))
    for done in [cooperate(claims()).whenDone() for _ in range(at_once)]:
        await done
    took, spent = time.monotonic() - began, time.process_time() - spent
    await directory.stopService()
    return {"rate": count / took, "cpu": spent / count}


async def _main(reactor: Any, url: str, count: str, at_once: str) -> None:
    print(json.dumps(await measure(reactor, url, int(count), int(at_once))))


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor, *sys.argv[1:])))
