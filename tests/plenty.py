"""A budget of memory that no test uses up."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from rtunnel.upkeep.memory import Memory


def plenty(clock: Any, total: int = 1 << 40) -> Memory:
    """A budget of *total* bytes."""
    return Memory(total, clock, Logger())
