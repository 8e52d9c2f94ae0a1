"""One watch of a service, whatever the number of links."""

from __future__ import annotations

from typing import Any

from rtunnel.services.shared_watch import SharedWatch


class Watch:
    """Takes note of what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self, _log: Any, _limiter: Any, what: str, _meanwhile: str, /) -> None:
        self.told.append(f"start {what}")

    def say(self, _log: Any, what: str, _meanwhile: str, /) -> None:
        self.told.append(f"say {what}")

    def speak_of(self, _log: Any, _limiter: Any, what: str, _meanwhile: str, /) -> None:
        self.told.append(f"speak of {what}")

    def stop(self) -> None:
        self.told.append("stop")


def test_first_starts_and_last_stops() -> None:
    watch: Any = Watch()
    shared = SharedWatch(watch)
    log: Any = None
    for user in ("a", "b", "a"):
        shared.start(user, lambda: None, log, log, user, "")
    # "a" begins again, so that "b" speaks for both; and then "b" ends.
    shared.stop("b")
    shared.stop("b")
    shared.stop("a")
    assert watch.told == ["start a", "say b", "say a", "speak of a", "stop"]
    shared.start("c", lambda: None, log, log, "c", "")
    shared.end()
    shared.stop("c")
    assert watch.told[5:] == ["start c", "stop"]
