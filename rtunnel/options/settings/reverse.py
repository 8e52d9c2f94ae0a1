"""The settings of ``rtunnel-server`` and ``rtunnel-client``."""

from __future__ import annotations

from dataclasses import replace

from rtunnel.access.rules import BALANCES
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.coercions import (
    integer,
    interface,
    listen_address,
    networks,
    optional,
    port_ranges,
    server_addresses,
    service_address,
    text,
    udp_address,
)
from rtunnel.options.settings.acme import ACME
from rtunnel.options.settings.declaration import (
    AT_ONCE,
    COUNT,
    GIB,
    KIB,
    LISTEN,
    MIB,
    NEW,
    PATH,
    TIME,
    TIME_OR_ZERO,
    YES_OR_NO,
    Kind,
    Setting,
    sizes,
    words,
)
from rtunnel.options.settings.tls import TLS, TLS_CLIENT, TLS_SERVER
from rtunnel.options.settings.tunnels import publish, tunnels
from rtunnel.options.settings.via import via
from rtunnel.options.shared_settings import ACCESS_LOG, CLUSTER, LOG, MEMORY, STATUS
from rtunnel.reverse.settings import DATA_PLANES, ClientSettings, EndSettings, ServerSettings
from rtunnel.wire.limits import LinkLimits

#: More would only cost the servers.
MOST_LINKS = 16
#: Settings of both ends.
BOTH = (
    Setting(
        "drain",
        TIME_OR_ZERO,
        "Seconds that open streams get to finish after SIGTERM or SIGINT; a second signal ends them at once.",
        EndSettings,
        reload=AT_ONCE,
    ),
    Setting("max-streams", COUNT, "Visitors that one link may carry at once.", LinkLimits, reload=NEW),
    Setting(
        "data-plane",
        words(*DATA_PLANES),
        "How visitors travel: auto (each on a data connection of its own; without one that is ready, over the link at "
        "first), direct (they wait for a data connection) or mux (all over the link).",
        EndSettings,
    ),
    Setting("pool", COUNT, "Most data connections of one link that wait for visitors.", EndSettings, reload=NEW),
    Setting(
        "initial-credit",
        sizes(KIB, GIB),
        "Bytes that the other end may send on a new stream before it is granted more.",
        LinkLimits,
        reload=NEW,
    ),
    Setting(
        "max-window",
        sizes(KIB, GIB),
        "Most bytes that are granted on one stream and not yet delivered; one stream carries at most this much per "
        "round trip.",
        LinkLimits,
        reload=NEW,
    ),
    Setting(
        "link-buffer",
        sizes(KIB, 1024 * GIB),
        "Most bytes that are granted on all streams of a link together and not yet delivered; this bounds the memory "
        "of a link.",
        LinkLimits,
        reload=NEW,
    ),
    replace(MEMORY, owner=EndSettings),
    Setting(
        "max-frame",
        sizes(64 * KIB, 16 * MIB),
        "Largest frame that is accepted, 64K to 16M.",
        LinkLimits,
        reload=NEW,
    ),
    Setting(
        "keepalive-interval",
        TIME,
        "Seconds of silence on a link or data connection after which this end sends a sign of life.",
        LinkLimits,
        reload=NEW,
    ),
    Setting(
        "dead-after",
        TIME,
        "Seconds of silence after which a link or data connection is dropped, and for which visitors outlive a lost "
        "link; more than --keepalive-interval.",
        LinkLimits,
        reload=NEW,
    ),
    *LOG,
    *STATUS,
    ACCESS_LOG,
)

SERVER_OWN = (
    Setting(
        "control-listen",
        LISTEN,
        "Where clients connect: :7000, 1.2.3.4:7000, [::1]:7000, or a Twisted endpoint such as unix:/path or "
        "systemd:domain=INET:index=0.",
        ServerSettings,
        default=ListenAddress.parse("tcp:7000"),
        reload=AT_ONCE,
    ),
    Setting(
        "udp-listen",
        Kind(optional(lambda written: udp_address(text(written), lowest=0), None), "address to listen on"),
        "Where clients' datagrams of UDP tunnels arrive: :7000, 1.2.3.4:7000 or [::1]:7000; the address and number of "
        "the control port if not given.",
        ServerSettings,
        no_default="the control port's",
        reload=AT_ONCE,
    ),
    Setting(
        "public-listen",
        Kind(optional(listen_address, None), "address to listen on"),
        "A shared public port, such as :8080, for clients that do not ask for their own port; none if not given.",
        ServerSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "http-listen",
        Kind(optional(listen_address, None), "address to listen on"),
        "Where visitors' HTTP requests arrive, such as :80; each goes to the client that publishes the host name that "
        "it asks for. None if not given.",
        ServerSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "https-listen",
        Kind(optional(listen_address, None), "address to listen on"),
        "Where visitors' HTTPS connections arrive, such as :443; each goes to the client that publishes its host name, "
        "and is not decrypted here. None if not given.",
        ServerSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "trusted-proxies",
        Kind(networks, "networks"),
        "Networks of proxies in front of --http-listen, such as 10.0.0.0/8, whose X-Forwarded-For and Forwarded are "
        "believed and passed on; what all others say there is dropped.",
        ServerSettings,
        no_default="none",
        reload=AT_ONCE,
    ),
    Setting(
        "public-interface",
        Kind(optional(interface, ""), "IP address"),
        "IP address on which the ports that clients ask for are opened, such as 192.0.2.1, or :: for all addresses of "
        "both families; all IPv4 addresses if not given.",
        ServerSettings,
        no_default="all IPv4",
    ),
    Setting(
        "allow-ports",
        Kind(port_ranges, "ports"),
        "Ports that clients may ask for, such as 8000-8999,9443, or none.",
        ServerSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "route",
        words(*BALANCES),
        "How the visitors of the shared public port are spread over its clients: round-robin, least-connections, or "
        "sticky: an address keeps its client.",
        ServerSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "cluster-advertise",
        Kind(optional(lambda written: str(DialAddress.parse(text(written))), ""), "host and port"),
        "Where the other servers of the cluster reach the control port, such as node1.example.org:7000; where it "
        "listens or, if that is everywhere, at this machine's name, if not given.",
        ServerSettings,
        no_default="the control port's",
    ),
    Setting(
        "cluster-ports",
        words("all", "holder"),
        "At which servers of the cluster the ports that clients ask for are open: all, or only the holder, to which "
        "the client has its link. Host names and the shared port are served by all.",
        ServerSettings,
    ),
    Setting("max-links", COUNT, "Clients that may be connected at once.", ServerSettings, reload=AT_ONCE),
    Setting("max-tunnels", COUNT, "Tunnels that one client may have.", LinkLimits, reload=NEW),
    Setting(
        "max-handshakes",
        COUNT,
        "Connections that may be in the TLS handshake at once.",
        ServerSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "handshake-timeout",
        TIME,
        "Seconds in which a new connection to the control port must say what it is.",
        ServerSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "hold",
        TIME_OR_ZERO,
        "Seconds for which visitors wait for the return of a client whose link is lost, instead of being closed.",
        ServerSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "state-dir",
        PATH,
        "Directory for what is kept between two runs: how much of the monthly quotas is used. If not given, "
        "$STATE_DIRECTORY, which systemd sets, or else ~/.local/state/rtunnel.",
        ServerSettings,
        no_default="``$STATE_DIRECTORY``",
    ),
    Setting(
        "visitor-idle",
        TIME_OR_ZERO,
        "Seconds without a byte in either direction after which a visitor is closed; 0 means never.",
        ServerSettings,
        reload=AT_ONCE,
    ),
    replace(CLUSTER, owner=ServerSettings),
)

CLIENT_OWN = (
    Setting(
        "server",
        Kind(server_addresses, "addresses to dial", lambda value: ", ".join(map(str, value))),
        "The server's control port: 1.2.3.4:7000, [::1]:7000, host:7000, or a Twisted endpoint such as "
        "tcp:host:7000. Required. May be repeated: the next server is dialled when one cannot be reached, or goes "
        "down. In the environment, commas separate several.",
        ClientSettings,
        no_default="required",
        repeatable=True,
        reload=AT_ONCE,
    ),
    Setting(
        "links",
        Kind(integer(1, MOST_LINKS), f"1 to {MOST_LINKS}"),
        "Links to hold at once, each to another server, or another address of its name. All tunnels are published on "
        "each, so visitors reach them while one server is down. The servers must be one cluster, or publish at "
        "addresses of their own.",
        ClientSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "via",
        Kind(optional(via, None), "URL, or ``env``"),
        "Proxy through which the server is reached: http://HOST:PORT (CONNECT), http://USER:PASSWORD@HOST:PORT or "
        "socks5://HOST:PORT; or env: the one that HTTPS_PROXY or ALL_PROXY names, unless NO_PROXY has the server. "
        "Other users of the machine can see a flag, so better give a password in the environment or the file.",
        ClientSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "local",
        Kind(service_address, "address to dial, or ``files:DIR``"),
        "The service that visitors reach: 127.0.0.1:80, :80, host:80, [::1]:80, a Twisted endpoint such as "
        "unix:/run/app.sock, or files:DIR, the files in a directory.",
        reload=AT_ONCE,
    ),
    Setting(
        "remote-port",
        Kind(integer(0, 65535), "0 to 65535"),
        "Public port to ask the server for, for the service of --local; 0 is the server's shared port.",
        default=0,
        reload=AT_ONCE,
    ),
    Setting(
        "tunnel",
        Kind(tunnels, "``PORT:ADDRESS``"),
        "REMOTE_PORT:LOCAL, such as 8080:127.0.0.1:80, 8080:80 or 8080:files:/srv/share. May be repeated: one link "
        "carries many services. In the environment, commas separate several.",
        default=(),
        key="tunnels",
        repeatable=True,
        reload=AT_ONCE,
    ),
    Setting(
        "publish",
        Kind(publish, "``KIND:PORT=ADDRESS``"),
        "KIND:PORT=LOCAL: tcp:8080=127.0.0.1:80 or tcp:8080=80, udp:53=127.0.0.1:53, or a range of ports, "
        "udp:27015-27020=10.0.0.5:27015-27020. For a host name http:app.example.org=127.0.0.1:3000, "
        "http:app.example.org/api=127.0.0.1:3001 or https:app.example.org=127.0.0.1:8443. files:DIR in place of an "
        "address serves the files in a directory. May be repeated: one link "
        "carries many services. In the environment, commas separate several.",
        default=(),
        repeatable=True,
        reload=AT_ONCE,
    ),
    Setting(
        "reconnect-min",
        TIME,
        "The shortest wait after an attempt that failed, in seconds. A lost link is dialled again sooner.",
        ClientSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "reconnect-max",
        TIME,
        "The longest wait between two attempts to reconnect, in seconds. The client never gives up.",
        ClientSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "connect-timeout",
        TIME,
        "Seconds that an attempt to connect to the server may take.",
        ClientSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "dial-timeout", TIME, "Seconds that a local service has to accept a connection.", ClientSettings, reload=AT_ONCE
    ),
    Setting(
        "check-services",
        YES_OR_NO,
        "Whether to connect to each local service now and then, without sending anything, and log whether it answers.",
        ClientSettings,
        reload=AT_ONCE,
    ),
)

SERVER = (*SERVER_OWN, *BOTH, *TLS, *TLS_SERVER)
CLIENT = (*CLIENT_OWN, *ACME, *BOTH, *TLS, *TLS_CLIENT)

VARIABLES = frozenset(setting.variable for setting in SERVER + CLIENT)
