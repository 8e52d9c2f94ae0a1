"""Ports for tests: see :mod:`benchmarks.ports`."""

from benchmarks.ports import free_port

__all__ = ["free_port"]
