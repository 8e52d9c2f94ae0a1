"""Parts that several services have."""

from __future__ import annotations

from rtunnel.options.reload.part import Part
from rtunnel.upkeep.draining import DrainingService
from rtunnel.upkeep.memory import Memory, default_memory


def drain_of(service: DrainingService) -> Part:
    """Return the part of ``drain``."""
    return Part(frozenset({"drain"}), lambda new: service.set_drain(new.settings.drain))


def budget_of(memory: Memory) -> Part:
    """Return the part of ``memory``."""
    return Part(frozenset({"memory"}), lambda new: memory.resize(new.settings.memory or default_memory()))
