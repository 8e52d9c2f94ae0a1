"""The settings of the three services: validated, and not changed afterwards.

``rtunnel.options`` makes them from flags, environment and file; tests make them by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.wire.limits import ChannelLimits


@dataclass(frozen=True, slots=True)
class SignalSettings:
    """Settings of ``rtc-signal``.

    :ivar addr: the address to listen on.
    :ivar cert: PEM file with the certificate chain for WSS; None: WS without TLS.
    :ivar key: PEM file with its private key.
    :ivar allowed_origins: values of a browser's ``Origin`` header that are allowed, with ``*`` as wildcard.
    :ivar valid_tokens: one of them must come as Bearer token; empty: no token is needed.
    :ivar max_hosts: hosts that may be registered at once.
    :ivar max_clients: clients that may be connected at once.
    :ivar max_rate: messages per second that one connection may send; ten times as many in a burst.
    :ivar max_per_address: connections from one IP address at once; 0: any number.
    :ivar max_message: the longest message, in bytes.
    """

    addr: ListenAddress
    cert: Path | None = None
    key: Path | None = None
    allowed_origins: tuple[str, ...] = ("*",)
    valid_tokens: tuple[str, ...] = field(default=(), repr=False)
    max_hosts: int = 4096
    max_clients: int = 4096
    max_rate: int = 50
    max_per_address: int = 64
    max_message: int = 65536


@dataclass(frozen=True, slots=True)
class SignalUrl:
    """The URL of a signaling server: ``ws://host:port/path`` or ``wss://``.

    :ivar text: as the operator wrote it.
    """

    text: str
    secure: bool
    host: str
    port: int
    path: str = "/"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class SignalClientSettings:
    """How host and client reach the signaling server. Times are seconds.

    :ivar url: the server.
    :ivar token: Bearer token; None: send none.
    :ivar ca_file: PEM file of the CAs that are trusted for ``wss``; None: the system's.
    """

    url: SignalUrl
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    reconnect_min: float = 1.0
    reconnect_max: float = 30.0
    connect_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class TurnServer:
    """A TURN server: ``turn:host:port?transport=udp``, or ``turns:`` with TLS.

    :ivar transport: the transport to the server, ``udp`` or ``tcp``.
    :ivar tls: use TLS; only with ``tcp``.
    """

    host: str
    port: int = 3478
    transport: str = "udp"
    tls: bool = False

    def __str__(self) -> str:
        return f"{'turns' if self.tls else 'turn'}:{self.host}:{self.port}?transport={self.transport}"


@dataclass(frozen=True, slots=True)
class IceSettings:
    """How ICE looks for a path to the peer.

    :ivar stun_server: host and port; None: use none.
    :ivar turn_servers: relays; all of them are used.
    :ivar turn_user: user name for the TURN servers; with a secret, a part of the user name.
    :ivar turn_credential: password for the TURN servers.
    :ivar turn_secret: secret shared with the TURN servers, from which time-limited credentials are derived.
    :ivar interfaces: names of interfaces, IP addresses or networks whose addresses may be offered; empty: all but
        loopback.
    :ivar ca_file: PEM file of the CAs that are trusted for ``turns:``; None: the system's.
    """

    stun_server: tuple[str, int] | None = None
    turn_servers: tuple[TurnServer, ...] = ()
    turn_user: str = ""
    turn_credential: str = field(default="", repr=False)
    turn_secret: str = field(default="", repr=False)
    interfaces: tuple[str, ...] = ()
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class UdpAddress:
    """Host and port for UDP. An empty host is every IPv4 address (to listen), or loopback (to dial)."""

    text: str
    host: str
    port: int

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """One service that a host offers.

    :ivar name: the name by which clients ask for it; empty: the default service.
    :ivar remote: its address; a :class:`UdpAddress` for a UDP service.
    """

    name: str
    remote: DialAddress | UdpAddress

    @property
    def protocol(self) -> str:
        """``tcp`` or ``udp``."""
        return "udp" if isinstance(self.remote, UdpAddress) else "tcp"


@dataclass(frozen=True, slots=True)
class ForwardSettings:
    """One local port of a client.

    :ivar service: the name of the host's service; empty: its default service.
    :ivar local: the address to listen on; a :class:`UdpAddress` for UDP.
    """

    service: str
    local: ListenAddress | UdpAddress

    @property
    def protocol(self) -> str:
        """``tcp`` or ``udp``."""
        return "udp" if isinstance(self.local, UdpAddress) else "tcp"


@dataclass(frozen=True, slots=True)
class EndSettings:
    """Settings that host and client have in common. Times are seconds.

    :ivar id: the host's ID.
    :ivar signal: how to reach the signaling server.
    :ivar drain: time for streams to finish when the process stops.
    :ivar udp_idle: time without a datagram after which a UDP flow is dropped.
    :ivar max_flows: UDP flows at once: at a client in all, at a host for each client; beyond that the one idle longest
        ends.
    """

    id: str
    signal: SignalClientSettings
    ice: IceSettings = field(default_factory=IceSettings)
    limits: ChannelLimits = field(default_factory=ChannelLimits)
    drain: float = 10.0
    udp_idle: float = 60.0
    max_flows: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings(EndSettings):
    """Settings of ``rtc-host``.

    :ivar services: at least one, no two with the same name.
    :ivar dial_timeout: time for a service to accept a connection.
    :ivar max_clients: clients that may be connected at once.
    """

    services: tuple[ServiceSettings, ...]
    dial_timeout: float = 5.0
    max_clients: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings(EndSettings):
    """Settings of ``rtc-client``.

    :ivar forwards: at least one.
    :ivar wait_timeout: time that a new local connection waits for a host that is not connected.
    """

    forwards: tuple[ForwardSettings, ...]
    wait_timeout: float = 10.0
