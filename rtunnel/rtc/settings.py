"""The operator's settings, as the three services receive them: checked, and never changed again.

``rtunnel.options`` builds these from flags, environment and file; tests build them by hand. The fields have the
defaults of the options, except for ``stun_server``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from rtunnel.addresses import DialAddress, ListenAddress, UdpAddress
from rtunnel.cluster.settings import ClusterUrl
from rtunnel.wire.invitations.code import InvitationCode
from rtunnel.wire.limits import ChannelLimits


@dataclass(frozen=True, slots=True)
class SignalSettings:
    """Settings of ``rtc-signal``.

    :ivar addr: the address to listen on.
    :ivar cert: PEM file with the certificate chain for WSS; None: WS without TLS.
    :ivar key: PEM file with its private key.
    :ivar allowed_origins: values of ``Origin`` that a browser may send, with ``*`` as a wildcard.
    :ivar valid_tokens: hosts and clients must send one of these as Bearer token; empty: no token is needed.
    :ivar max_hosts: hosts that may be registered at once.
    :ivar max_clients: clients that may be connected at once.
    :ivar max_rate: messages per second that one connection may send; ten times as many in a burst.
    :ivar max_per_address: connections from one IP address at once; 0: any number.
    :ivar max_message: bytes that one message may have.
    :ivar memory: the most bytes that all connections may hold together, or nearly; None: a quarter of the machine's
        memory.
    :ivar cluster: the directory that it shares with other signaling servers; None: it is alone.
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
    memory: int | None = None
    cluster: ClusterUrl | None = None


@dataclass(frozen=True, slots=True)
class SignalUrl:
    """The URL of a signaling server: ``ws://host:port/path`` or ``wss://``.

    :ivar text: as the operator wrote it.
    :ivar others: the servers that are dialled if this one cannot be reached, in turn.
    """

    text: str
    secure: bool
    host: str
    port: int
    path: str = "/"
    others: tuple[SignalUrl, ...] = ()

    @property
    def all(self) -> tuple[SignalUrl, ...]:
        """This server and the others, each by itself."""
        return (replace(self, others=()), *self.others)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class SignalClientSettings:
    """How host and client reach the signaling server. Times are in seconds.

    :ivar url: the server's URL, and those of others.
    :ivar token: Bearer token; None: no token is sent.
    :ivar ca_file: PEM file of the CAs that are trusted for ``wss``; None: those of the system.
    :ivar reconnect_min: shortest wait before the next attempt.
    :ivar reconnect_max: longest wait before the next attempt.
    :ivar connect_timeout: time that one attempt may take.
    """

    url: SignalUrl
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    reconnect_min: float = 1.0
    reconnect_max: float = 30.0
    connect_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class TurnServer:
    """A server that relays: ``turn:host:port?transport=udp``, or ``turns:`` with TLS.

    :ivar transport: how it is reached, ``udp`` or ``tcp``.
    :ivar tls: whether it is reached over TLS; only with ``tcp``.
    """

    host: str
    port: int = 3478
    transport: str = "udp"
    tls: bool = False

    def __str__(self) -> str:
        return f"{'turns' if self.tls else 'turn'}:{self.host}:{self.port}?transport={self.transport}"


@dataclass(frozen=True, slots=True)
class IceSettings:
    """How host and client find a path to their peer.

    :ivar stun_server: host and port; None: no STUN server is asked.
    :ivar turn_servers: relays; all of them are asked.
    :ivar turn_user: user name for the relays; with a secret, a part of the user name.
    :ivar turn_credential: password for the relays.
    :ivar turn_secret: secret shared with the relays, from which time-limited credentials are made.
    :ivar interfaces: names of interfaces, IP addresses or networks whose addresses may be offered; empty: all but
        loopback.
    :ivar ca_file: PEM file of the CAs that are trusted for ``turns:``; None: those of the system.
    """

    stun_server: tuple[str, int] | None = None
    turn_servers: tuple[TurnServer, ...] = ()
    turn_user: str = ""
    turn_credential: str = field(default="", repr=False)
    turn_secret: str = field(default="", repr=False)
    interfaces: tuple[str, ...] = ()
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """One service that a host offers.

    :ivar name: what clients ask for; empty: the default service.
    :ivar remote: the address of the service; a :class:`UdpAddress` for UDP.
    """

    name: str
    remote: DialAddress | UdpAddress

    @property
    def protocol(self) -> str:
        """Return ``tcp`` or ``udp``."""
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
        """Return ``tcp`` or ``udp``."""
        return "udp" if isinstance(self.local, UdpAddress) else "tcp"


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Who an end is, and whom it accepts; see :mod:`rtunnel.access.trust`.

    :ivar state_dir: has the end's own identity, and ``known_hosts`` or ``authorized_clients`` if no such file is named;
        None: the identity is a new one each time, and there are no such files.
    :ivar cert: PEM file with the certificate of this end, for an organisation with a CA; None: see *state_dir*.
    :ivar key: PEM file with its private key.
    :ivar ca: PEM file of the CAs that vouch for the other end; None: its fingerprint is what counts.
    :ivar authorized_clients: at the host, the file that lists its clients.
    :ivar host_keys: at the client, fingerprints (see :func:`~rtunnel.access.peers.fingerprints.parse_fingerprint`), one
        of which the host must have.
    :ivar known_hosts: at the client, the file that lists hosts.
    :ivar trust_on_first_use: at the client, whether a host that is not listed is added to that file.
    :ivar host_name: at the client, the name that the host's certificate must have; empty: the host's ID.
    """

    state_dir: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    authorized_clients: Path | None = None
    host_keys: tuple[str, ...] = ()
    known_hosts: Path | None = None
    trust_on_first_use: bool = False
    host_name: str = ""


@dataclass(frozen=True, slots=True)
class EndSettings:
    """Settings that host and client share. Times are in seconds.

    :ivar id: the host's ID.
    :ivar signal: how to reach the signaling server.
    :ivar ice: how to find a path to the peer.
    :ivar limits: bounds of each peer connection.
    :ivar memory: the most bytes that all peers may hold together, or nearly; None: a quarter of the machine's memory.
    :ivar drain: time that open streams get to finish when the process stops.
    :ivar udp_idle: time without a datagram after which a UDP flow is dropped; None: see
        :class:`~rtunnel.relay.udp.flows.FlowTable`.
    :ivar max_flows: UDP flows at once, of a client in total and of a host for each client; a new one replaces the one
        that has been idle the longest.
    :ivar identity: who this end is, and whom it accepts.
    :ivar hedge: KEMs whose secrets are mixed into the keys of peer connections, which are all sealed then; see
        :mod:`rtunnel.wire.data.hedges`.
    """

    id: str
    signal: SignalClientSettings
    ice: IceSettings = field(default_factory=IceSettings)
    limits: ChannelLimits = field(default_factory=ChannelLimits)
    memory: int | None = None
    drain: float = 10.0
    udp_idle: float | None = None
    max_flows: int = 1024
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    hedge: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings(EndSettings):
    """Settings of ``rtc-host``.

    :ivar services: at least one, no two with the same name.
    :ivar dial_timeout: time that a service has to accept a connection.
    :ivar check_services: whether to connect to TCP services now and then, to see whether they answer.
    :ivar max_clients: clients that may be connected at once.
    :ivar invite: whether somebody is invited at the start, and the code is logged.
    """

    services: tuple[ServiceSettings, ...]
    dial_timeout: float = 5.0
    check_services: bool = True
    max_clients: int = 256
    invite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings(EndSettings):
    """Settings of ``rtc-client``.

    :ivar forwards: at least one.
    :ivar wait_timeout: time that a new local connection waits for a host that is not connected, before it is closed.
    :ivar invitation: the code that leads to the host, whose ID is empty until it is known; None: there is an ID.
    """

    forwards: tuple[ForwardSettings, ...]
    wait_timeout: float = 10.0
    invitation: InvitationCode | None = None
