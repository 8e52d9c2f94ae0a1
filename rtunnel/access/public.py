"""Where a client can ask the server to publish its service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Public:
    """A public port for one client, or the shared public port.

    :ivar port: the port's number; None: the shared port.
    """

    port: int | None = None

    @classmethod
    def requested(cls, port: int) -> Public:
        """Return what INIT asks for; on the wire 0 stands for the shared port."""
        return cls(port or None)

    def __str__(self) -> str:
        return "the shared public port" if self.port is None else f"port {self.port}"


SHARED = Public()
