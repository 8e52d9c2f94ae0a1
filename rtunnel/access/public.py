"""Where a client can ask the server to publish its service."""

from __future__ import annotations

from dataclasses import dataclass

#: The protocols that are routed by host name.
NAMED = ("http", "https")


@dataclass(frozen=True, slots=True)
class Public:
    """A public port for one client, the shared public port, or a host name.

    :ivar port: the port's number; None: the shared port, or a host name.
    :ivar protocol: ``tcp``, ``udp``, ``http`` or ``https``. The shared port is for TCP.
    :ivar host: the host name of ``http`` and ``https``, see :func:`rtunnel.host_names.host_pattern`; else empty.
    :ivar path: for ``http``, what the path of a request begins with, such as ``/api``; empty: all paths.
    """

    port: int | None = None
    protocol: str = "tcp"
    host: str = ""
    path: str = ""

    @classmethod
    def requested(cls, port: int, protocol: str = "tcp", host: str = "", path: str = "") -> Public:
        """Return what INIT asks for; on the wire port 0 stands for the shared port."""
        return cls(port or None, protocol, host, path)

    @property
    def short(self) -> str:
        """The place as lists show it, such as ``53/udp``."""
        if self.host or self.port is None:
            return str(self)
        return f"{self.port}/udp" if self.protocol == "udp" else str(self.port)

    def __str__(self) -> str:
        if self.host:
            return f"{self.protocol}://{self.host}{self.path}"
        if self.port is None:
            return "the shared public port"
        return f"UDP port {self.port}" if self.protocol == "udp" else f"port {self.port}"


SHARED = Public()
