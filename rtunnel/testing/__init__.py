"""Fakes for the tests of this package and of packages that build on it.

- :class:`ReferenceServer` and :class:`ReferenceClient` behave as the two Go programs do (docs/wire.rst, "Reference
  protocol"), including their defects. They are written from that page alone and share no code with ``rtunnel.wire``, so
  that a mistake there is not repeated here.
- :func:`memory_streams` returns the two ends of a stream in memory: what one end writes, the other end receives.
"""

from __future__ import annotations

from rtunnel.relay.memory_stream import HIGH_WATER, MemoryStream, memory_streams
from rtunnel.testing.reference_client import ReferenceClient
from rtunnel.testing.reference_server import ReferenceServer

__all__ = ["HIGH_WATER", "MemoryStream", "ReferenceClient", "ReferenceServer", "memory_streams"]
