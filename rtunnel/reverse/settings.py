"""What the operator decided, as the two services are given it: already checked, never changed again.

``rtunnel.options`` makes these from flags, environment and file; tests make them by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rtunnel.access.admission import AdmissionSettings
from rtunnel.addresses import DialAddress, ListenAddress, PortRanges
from rtunnel.tls.policy import TlsSettings
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.messages import DIRECT, DIRECT_ONLY

#: Whether a visitor gets a data connection of its own, and what each end says of it in HELLO. ``auto``: it does where
#: one waits, else it goes by the link; ``direct``: it waits for one; ``mux``: it goes by the link.
DATA_PLANES = {
    "auto": frozenset({DIRECT}),
    "direct": frozenset({DIRECT, DIRECT_ONLY}),
    "mux": frozenset[str](),
}


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How ``rtunnel-server`` behaves. Times are seconds.

    :ivar control_listen: where clients connect.
    :ivar public_listen: the shared public port, for clients that ask for port 0; None: there is none.
    :ivar public_interface: IP address on which the ports that clients ask for are opened; empty: all IPv4 addresses.
    :ivar allow_ports: ports that clients may ask for.
    :ivar route: who serves a visitor of a shared port: ``round-robin`` or ``least-connections``.
    :ivar max_links: clients that may be connected at once.
    :ivar handshake_timeout: time in which a new connection must have said what it is.
    :ivar visitor_idle: time without a byte in either direction after which a visitor is closed; 0: never.
    :ivar drain: time that streams are given to finish when the process stops.
    :ivar limits: bounds of each link.
    :ivar tls: how links are protected; None: not at all.
    :ivar max_handshakes: connections that may be in the TLS handshake at once.
    :ivar admission: who may use the server.
    :ivar data_plane: how visitors travel, see :data:`DATA_PLANES`.
    :ivar pool: data connections of one link that may wait for visitors.
    """

    control_listen: ListenAddress
    public_listen: ListenAddress | None = None
    public_interface: str = ""
    allow_ports: PortRanges = field(default_factory=lambda: PortRanges.parse("1024-65535"))
    route: str = "round-robin"
    max_links: int = 4096
    handshake_timeout: float = 10.0
    visitor_idle: float = 0.0
    drain: float = 10.0
    limits: LinkLimits = field(default_factory=LinkLimits)
    tls: TlsSettings | None = None
    max_handshakes: int = 256
    admission: AdmissionSettings = field(default_factory=AdmissionSettings)
    data_plane: str = "auto"
    pool: int = 64


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """One service that a client publishes.

    :ivar remote_port: public port to ask the server for; 0: the server's shared port.
    :ivar local: where the service is.
    :ivar name: what the logs call it; empty: its port.
    """

    remote_port: int
    local: DialAddress
    name: str = ""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How ``rtunnel-client`` behaves. Times are seconds.

    :ivar server: the server's control port.
    :ivar tunnels: at least one, in the order of their tunnel numbers; no two share a port.
    :ivar reconnect_min: first wait before the server is dialled again.
    :ivar reconnect_max: longest wait before the server is dialled again.
    :ivar connect_timeout: time that one attempt to reach the server may take.
    :ivar dial_timeout: time that a local service is given to accept a connection.
    :ivar drain: time that streams are given to finish when the process stops.
    :ivar limits: bounds of the link.
    :ivar tls: how the link is protected; None: not at all.
    :ivar token: what proves to the server who we are; None: there is none.
    :ivar data_plane: how visitors travel, see :data:`DATA_PLANES`.
    :ivar pool: data connections that may be made or wait for visitors at once.
    """

    server: DialAddress
    tunnels: tuple[TunnelSettings, ...]
    reconnect_min: float = 1.0
    reconnect_max: float = 30.0
    connect_timeout: float = 10.0
    dial_timeout: float = 5.0
    drain: float = 10.0
    limits: LinkLimits = field(default_factory=LinkLimits)
    tls: TlsSettings | None = None
    token: str | None = field(default=None, repr=False)
    data_plane: str = "auto"
    pool: int = 64
