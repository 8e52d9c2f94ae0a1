"""Where a client can ask the server to publish its service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Public:
    """A public port for one client, or the shared public port.

    :ivar port: the port's number; None: the shared port.
    :ivar protocol: ``tcp`` or ``udp``. The shared port is for TCP.
    """

    port: int | None = None
    protocol: str = "tcp"

    @classmethod
    def requested(cls, port: int, protocol: str = "tcp") -> Public:
        """Return what INIT asks for; on the wire 0 stands for the shared port."""
        return cls(port or None, protocol)

    @property
    def short(self) -> str:
        """The port as lists show it, such as ``53/udp``."""
        return f"{self.port}/udp" if self.protocol == "udp" else str(self.port)

    def __str__(self) -> str:
        if self.port is None:
            return "the shared public port"
        return f"UDP port {self.port}" if self.protocol == "udp" else f"port {self.port}"


SHARED = Public()
