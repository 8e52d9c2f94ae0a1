"""The operator's settings, as the two services receive them: checked, and never changed again.

``rtunnel.options`` builds these from flags, environment and file; tests build them by hand. The fields have the
defaults of the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.rules import Rules
from rtunnel.acme.settings import HTTP_01, AcmeSettings
from rtunnel.addresses import DialAddress, ListenAddress, PortRanges, UdpAddress
from rtunnel.cluster.settings import ClusterUrl
from rtunnel.errors import ConfigError
from rtunnel.proxies import Proxy
from rtunnel.services.health_settings import HealthSettings
from rtunnel.tls.policy import CertificateFiles, TlsSettings
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.messages import DIRECT, DIRECT_ONLY

#: Whether a visitor gets a data connection of its own, and the capabilities that each end announces in HELLO. ``auto``:
#: if one is ready, otherwise the link carries the visitor; ``direct``: the visitor waits for one; ``mux``: never.
DATA_PLANES = {
    "auto": frozenset({DIRECT}),
    "direct": frozenset({DIRECT, DIRECT_ONLY}),
    "mux": frozenset[str](),
}
#: Where a CA looks for the answer to an HTTP-01 challenge, and what answers there: the client itself.
CHALLENGE_PATH = "/.well-known/acme-challenge"
CHALLENGES = DialAddress("ACME challenges", "challenges", None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSettings:
    """Settings that server and client share. Times are in seconds.

    :ivar drain: time that open streams get to finish when the process stops.
    :ivar limits: bounds of each link.
    :ivar tls: how links are protected; None: they are plain TCP.
    :ivar data_plane: how visitors travel; see :data:`DATA_PLANES`.
    :ivar hedge: KEMs whose secrets are mixed into the keys of links, which have TLS then; see
        :mod:`rtunnel.wire.data.hedges`.
    :ivar memory: the most bytes that all links may hold together, or nearly; None: a quarter of the machine's memory.
    :ivar pool: data connections of one link that may wait for visitors; at the client, those being made count too.
    """

    drain: float = 10.0
    limits: LinkLimits = field(default_factory=LinkLimits)
    tls: TlsSettings | None = None
    memory: int | None = None
    data_plane: str = "auto"
    hedge: tuple[str, ...] = ()
    pool: int = 64

    @property
    def plane(self) -> str:
        """How visitors travel in fact: with hedges never over the link, whose own keys have none."""
        return "direct" if self.hedge else self.data_plane


@dataclass(frozen=True, slots=True)
class ServerSettings(EndSettings):
    """Settings of ``rtunnel-server``. Times are in seconds.

    :ivar control_listen: where clients connect.
    :ivar public_listen: the shared public port, for clients that ask for port 0; None: there is none.
    :ivar public_interface: IP address on which the ports that clients ask for are opened; empty: all IPv4 addresses.
    :ivar allow_ports: ports that clients may ask for.
    :ivar route: how visitors of the shared port are spread over clients; see :data:`~rtunnel.access.rules.BALANCES`.
    :ivar max_links: clients that may be connected at once.
    :ivar handshake_timeout: how long a new connection may take to ask for something.
    :ivar visitor_idle: time without a byte in either direction after which a visitor is closed; 0: never.
    :ivar hold: time for which visitors wait for the return of a client that is lost; 0: they are closed.
    :ivar state_dir: where the quotas that are used are kept; None: where systemd says, or the user's.
    :ivar max_handshakes: connections that may be in the TLS handshake at once.
    :ivar admission: who may use the server.
    :ivar udp_listen: where the UDP paths of clients arrive; None: at the address and number of the control port.
    :ivar http_listen: where HTTP requests arrive, which are routed by host name; None: nowhere.
    :ivar trusted_proxies: networks of proxies whose word counts about whose request it is that they pass on.
    :ivar https_listen: where TLS connections arrive, which are routed by the name in their ClientHello; None: nowhere.
    :ivar cluster: the directory that it shares with other servers; None: it is alone.
    :ivar cluster_advertise: where other nodes of the cluster reach the control port, ``host:port``; empty: where it
        listens or, if that is everywhere, at this machine's name.
    :ivar cluster_ports: at which nodes of the cluster ports of their own are open: ``all``, or only the ``holder``,
        to which the client has its link.
    """

    control_listen: ListenAddress
    public_listen: ListenAddress | None = None
    public_interface: str = ""
    allow_ports: PortRanges = field(default_factory=lambda: PortRanges.parse("1024-65535"))
    route: str = "round-robin"
    max_links: int = 4096
    handshake_timeout: float = 10.0
    visitor_idle: float = 0.0
    hold: float = 10.0
    state_dir: Path | None = None
    max_handshakes: int = 256
    admission: AdmissionSettings = field(default_factory=AdmissionSettings)
    udp_listen: UdpAddress | None = None
    http_listen: ListenAddress | None = None
    https_listen: ListenAddress | None = None
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    cluster: ClusterUrl | None = None
    cluster_advertise: str = ""
    cluster_ports: str = "all"


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """One service that a client publishes.

    :ivar remote_port: public port to ask the server for; 0: the server's shared port, which only TCP has.
    :ivar local: where the service is; for UDP it has host and port.
    :ivar name: the name in the log; empty: the port.
    :ivar protocol: ``tcp``, ``udp``, ``http`` or ``https``.
    :ivar host: the public host name of ``http`` and ``https``; may begin with ``*.``. *remote_port* is 0 then.
    :ivar path: for ``http``, what paths begin with, such as ``/api``; empty: all paths.
    :ivar rules: who may come, how much, who else serves it, and what is done with requests; see docs/wire.rst, "Rules".
    :ivar tls: for ``https``, who ends TLS: ``passthrough`` or empty: the service; ``auto``: the client, with a
        certificate that it obtains; or the client, with the certificate in these files.
    :ivar proxy_protocol: version of the PROXY header that the service gets, ``v1`` or ``v2``; empty: it gets none.
    :ivar health: how the service is checked, so that visitors go elsewhere while it fails; None: it is not.
    :ivar added: how it came to be: empty: by the settings; ``until restart`` or ``kept``: by ``rtunnel publish``.
    :ivar origin: the setting that has it, and its index if that is a list; see :class:`~rtunnel.errors.ConfigError`.
    """

    remote_port: int
    local: DialAddress
    name: str = ""
    protocol: str = "tcp"
    host: str = ""
    path: str = ""
    rules: Rules = field(default_factory=Rules)
    tls: str | CertificateFiles = ""
    proxy_protocol: str = ""
    health: HealthSettings | None = None
    added: str = field(default="", compare=False)
    origin: tuple[str | int, ...] = field(default=(), compare=False, repr=False)

    @property
    def place(self) -> tuple[str, int, str, str]:
        """What is public about it, which no other tunnel of the client has."""
        return self.protocol, self.remote_port, self.host, self.path

    @property
    def shown_place(self) -> str:
        """The same as the operator writes it: ``tcp:8080``, ``http:app.example.org/api``."""
        return f"{self.protocol}:{self.host + self.path if self.host else self.remote_port}"

    @property
    def shown_name(self) -> str:
        """The tunnel's name in logs."""
        if self.host:
            return self.name or f"{self.protocol}://{self.host}{self.path}"
        port = f"{'UDP ' if self.protocol == 'udp' else ''}port {self.remote_port}"
        return self.name or (port if self.remote_port else "the shared port")

    @property
    def ends_tls(self) -> bool:
        """Whether TLS ends at the client."""
        return self.protocol == "https" and self.tls not in ("", "passthrough")

    @property
    def is_served_here(self) -> bool:
        """Whether the client itself is the service."""
        return self.answers_challenges or self.local.directory is not None

    @property
    def answers_challenges(self) -> bool:
        """Whether it is one of :func:`challenge_tunnels`."""
        return self.local == CHALLENGES


def challenge_tunnels(tunnels: Sequence[TunnelSettings], acme: AcmeSettings | None) -> tuple[TunnelSettings, ...]:
    """Return the tunnels that are needed beside *tunnels* so that a CA can check names by HTTP-01.

    Of the operator's rules they have those without which a group would not let them in, and no others: a CA comes from
    anywhere, and without a password.

    :raises ConfigError: the operator has published one of these places himself.
    """
    if acme is None or acme.challenge != HTTP_01:
        return ()
    taken = {tunnel.place: tunnel.origin for tunnel in tunnels}
    found = []
    for tunnel in tunnels:
        if tunnel.tls == "auto":
            rules = Rules(group=tunnel.rules.group, group_key=tunnel.rules.group_key, balance=tunnel.rules.balance)
            one = TunnelSettings(0, CHALLENGES, "", "http", tunnel.host, CHALLENGE_PATH, rules)
            if one.place in taken:
                raise ConfigError(
                    f"{one.shown_place} is where the client answers the CA; leave it out, or give --acme-challenge "
                    "tls-alpn-01",
                    taken[one.place],
                )
            found.append(one)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class ClientSettings(EndSettings):
    """Settings of ``rtunnel-client``. Times are in seconds.

    :ivar server: the control port of the server, or of the first of several.
    :ivar tunnels: at the start; no two have the same public place. A reference server serves the first.
    :ivar reconnect_min: shortest wait before the server is dialled again.
    :ivar reconnect_max: longest wait before the server is dialled again.
    :ivar connect_timeout: time that one attempt to reach the server may take.
    :ivar dial_timeout: time that a local service has to accept a connection.
    :ivar check_services: whether to connect to the local services now and then, to see whether they answer.
    :ivar token: token that the server asks for; None: no token is sent.
    :ivar acme: where certificates of tunnels with ``auto`` come from; None: there is no such tunnel.
    :ivar via: the proxy through which the servers are reached, which have a host and a port then; None: none.
    :ivar other_servers: the control ports of further servers.
    :ivar links: how many links are held at once, each to another server.
    """

    server: DialAddress
    tunnels: tuple[TunnelSettings, ...]
    reconnect_min: float = 1.0
    reconnect_max: float = 30.0
    connect_timeout: float = 10.0
    dial_timeout: float = 5.0
    check_services: bool = True
    token: str | None = field(default=None, repr=False)
    acme: AcmeSettings | None = None
    via: Proxy | None = None
    other_servers: tuple[DialAddress, ...] = ()
    links: int = 1

    @property
    def servers(self) -> tuple[DialAddress, ...]:
        """All servers, in the order in which they are tried."""
        return self.server, *self.other_servers

    @property
    def first_hosts(self) -> tuple[str | None, ...]:
        """The hosts to which connections lead first: the servers, or the proxy. None: such a place has none."""
        return tuple(server.host for server in self.servers) if self.via is None else (self.via.address.host,)

    def of(self, server: DialAddress) -> ClientSettings:
        """Return the settings of a link to one of the servers, whose name its certificate must have."""
        tls = self.tls
        if tls is not None and not tls.server_name:
            tls = replace(tls, server_name=server.host or "")
        return replace(self, server=server, other_servers=(), tls=tls)
