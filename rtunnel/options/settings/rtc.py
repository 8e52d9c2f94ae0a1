"""The settings of ``rtc-signal``, ``rtc-host`` and ``rtc-client``.

Their file has the layout of the reference program's file; one file may serve all three.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rtunnel.addresses import ListenAddress
from rtunnel.coercions import integer, optional, seconds, text
from rtunnel.options.identities import settings as identities
from rtunnel.options.settings.declaration import (
    AT_ONCE,
    COUNT,
    GIB,
    KIB,
    LISTEN,
    MANY,
    NEW,
    PATH,
    TEXT,
    TIME,
    TIME_OR_ZERO,
    YES_OR_NO,
    Kind,
    Setting,
    sizes,
    words,
)
from rtunnel.options.settings.rtc_coercions import (
    bearer_token,
    host_id,
    ice_interface,
    list_of,
    origin,
    show_signal_urls,
    signal_urls,
    stun_server,
    turn_server,
)
from rtunnel.options.settings.rtc_services import forwards, services
from rtunnel.options.shared_settings import ACCESS_LOG, CLUSTER, LOG, MEMORY, STATUS
from rtunnel.rtc.settings import (
    ClientSettings,
    EndSettings,
    HostSettings,
    IceSettings,
    SignalClientSettings,
    SignalSettings,
)
from rtunnel.wire.limits import ChannelLimits
from rtunnel.wire.webrtc.signaling import MAX_ID, MAX_MESSAGE

#: The default address of the service at both ends of the reference program.
SERVICE = "localhost:25565"

_limit = partial(Setting, owner=ChannelLimits, key="limits.", reload=NEW)
_most = partial(Setting, owner=SignalSettings, key="server.", reload=AT_ONCE)
_ice = partial(Setting, owner=IceSettings, reload=NEW)

HOST_ID = Kind(host_id, f"up to {MAX_ID} characters")

SIGNAL_OWN = (
    Setting(
        "addr",
        LISTEN,
        "Where hosts and clients connect: :8080, 1.2.3.4:8080, [::1]:8080, or a Twisted endpoint such as unix:/path or "
        "systemd:domain=INET:index=0.",
        SignalSettings,
        default=ListenAddress.parse(":8080"),
        key="server.",
        in_reference=True,
        reload=AT_ONCE,
    ),
    Setting(
        "tls-cert-file",
        PATH,
        "PEM file with the certificate for WSS, followed by any intermediate certificates; plain WS if not given.",
        SignalSettings,
        "cert",
        key="server.tls.cert_file",
        in_reference=True,
        reload=NEW,
    ),
    Setting(
        "tls-key-file",
        PATH,
        "PEM file with the private key of that certificate.",
        SignalSettings,
        "key",
        key="server.tls.key_file",
        in_reference=True,
        reload=NEW,
    ),
    Setting(
        "allowed-origins",
        Kind(list_of(origin), "origins", ",".join),
        "Web pages that may connect, as origins such as https://example.com, where * matches any text. Programs other "
        "than browsers send no origin. Separated by commas, or repeated.",
        SignalSettings,
        key="server.",
        repeatable=True,
        in_reference=True,
        reload=NEW,
    ),
    Setting(
        "valid-tokens",
        Kind(list_of(bearer_token), "tokens"),
        "Bearer tokens, one of which each host and client must present. Separated by commas, or repeated. Other users "
        "of the machine can see a flag, so better use the environment or the file.",
        SignalSettings,
        key="server.auth.",
        repeatable=True,
        in_reference=True,
        reference_key="server.valid_tokens",
        reload=AT_ONCE,
        is_secret=True,
    ),
    _most("max-hosts", COUNT, "Hosts that may be registered at once."),
    _most("max-clients", COUNT, "Clients that may be connected at once."),
    Setting(
        "max-rate",
        COUNT,
        "Messages per second that a connection may send; ten times as many in a burst.",
        SignalSettings,
        key="server.",
        reload=NEW,
    ),
    _most(
        "max-per-address",
        Kind(integer(0, MANY), f"0 to {MANY:,}"),
        "Connections from one IP address at once; 0 means any number.",
    ),
    # Host and client accept no larger messages: a larger one that got through would cost its receiver the connection.
    Setting(
        "max-message",
        sizes(4 * KIB, MAX_MESSAGE),
        "Largest message that is accepted.",
        SignalSettings,
        key="server.",
        reload=NEW,
    ),
    replace(MEMORY, owner=SignalSettings, key="server.memory"),
    replace(CLUSTER, owner=SignalSettings, key="server.cluster"),
)

#: Settings of both host and client.
ENDS = (
    Setting(
        "signal",
        Kind(signal_urls, "``ws://``, ``wss://``", show_signal_urls),
        "The signaling server: ws://host:8080, or wss://host/path for TLS. Of a cluster several servers: the one that "
        "worked last is dialled first, then the others. Separated by commas, or repeated.",
        SignalClientSettings,
        "url",
        default=signal_urls("ws://localhost:8080"),
        repeatable=True,
        in_reference=True,
        reload=AT_ONCE,
    ),
    Setting(
        "protocol",
        words("tcp", "udp"),
        "Protocol of the service without a name: tcp or udp.",
        default="tcp",
        in_reference=True,
        reload=AT_ONCE,
    ),
    Setting(
        "token",
        Kind(optional(bearer_token, None), "token"),
        "Bearer token for the signaling server. Other users of the machine can see a flag, so better use the "
        "environment or the file.",
        SignalClientSettings,
        in_reference=True,
        reload=AT_ONCE,
        is_secret=True,
    ),
    Setting(
        "ca-file",
        PATH,
        "PEM file with the CAs to trust for wss: and turns:; those of the system if not given.",
        SignalClientSettings,
        no_default="the system's",
        reload=AT_ONCE,
    ),
    _ice(
        "stun-server",
        Kind(stun_server, "``stun:host:port``", lambda server: f"stun:{server[0]}:{server[1]}"),
        "STUN server that reports the public address, stun:host:port; empty for none, in the environment too.",
        # A program that builds its settings without options, such as a test, asks no server.
        default=("stun.l.google.com", 19302),
        key="stun.server",
        in_reference=True,
        may_be_empty=True,
    ),
    _ice(
        "turn-server",
        Kind(list_of(turn_server), "``turn:``, ``turns:``"),
        "TURN server that relays if there is no direct path: turn:host:3478?transport=udp or tcp, turns:host:5349 for "
        "TLS. Separated by commas, or repeated.",
        field="turn_servers",
        key="turn.servers",
        repeatable=True,
    ),
    Setting("turn-user", TEXT, "User name for the TURN servers.", IceSettings, key="turn.user", reload=NEW),
    _ice(
        "turn-credential",
        TEXT,
        "Password of that user. Other users of the machine can see a flag, so better use the environment or the file.",
        key="turn.credential",
        is_secret=True,
    ),
    _ice(
        "turn-secret",
        TEXT,
        "Instead of a password: the secret shared with the TURN servers (coturn's static-auth-secret), from which "
        "short-lived passwords are made.",
        key="turn.secret",
        is_secret=True,
    ),
    _ice(
        "ice-interface",
        Kind(list_of(ice_interface), "names, addresses, networks"),
        "Which addresses of this machine may be used: an interface name, an IP address or a network, loopback "
        "included; all but loopback if not given. Separated by commas, or repeated.",
        field="interfaces",
        no_default="all but loopback",
        key="ice.interfaces",
        repeatable=True,
    ),
    Setting(
        "reconnect-min",
        TIME,
        "The shortest wait after an attempt that failed, in seconds. A lost connection is dialled again sooner.",
        SignalClientSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "reconnect-max",
        TIME,
        "The longest wait between two attempts to reconnect, in seconds. The program never gives up.",
        SignalClientSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "connect-timeout",
        TIME,
        "Seconds that an attempt to reach the signaling server may take.",
        SignalClientSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "drain",
        TIME_OR_ZERO,
        "Seconds that open connections get to finish after SIGTERM or SIGINT; a second signal ends them at once.",
        EndSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "udp-idle",
        Kind(optional(seconds(zero=False), None), TIME.values),
        "Seconds without a datagram after which a UDP flow is dropped. By default 30 for a question and its answer, "
        "and 300 for a flow that went both ways more than once.",
        EndSettings,
        no_default="30 or 300",
        key="limits.",
        reload=NEW,
    ),
    Setting(
        "max-flows",
        COUNT,
        "UDP flows at once; a new one replaces the one that has been idle the longest.",
        EndSettings,
        key="limits.",
        reload=NEW,
    ),
    _limit("max-streams", COUNT, "Data channels that one peer connection may have at once."),
    _limit("initial-credit", sizes(KIB, GIB), "Bytes that a peer may send on a new stream before it is granted more."),
    _limit(
        "max-window",
        sizes(KIB, GIB),
        "Most bytes that are granted on one stream and not yet delivered; one stream carries at most this much per "
        "round trip.",
    ),
    _limit(
        "peer-buffer",
        sizes(KIB, 1024 * GIB),
        "Most bytes that are granted to one peer on all streams together and not yet delivered; this bounds the memory "
        "of a peer.",
    ),
    replace(MEMORY, owner=EndSettings, key="limits.memory"),
    *identities.ENDS,
    *LOG,
    *STATUS,
    ACCESS_LOG,
)

HOST_OWN = (
    Setting(
        "id",
        HOST_ID,
        "Name under which clients find this host. Required.",
        HostSettings,
        no_default="required",
        key="host.",
        in_reference=True,
    ),
    Setting(
        "remote",
        Kind(text, "address to dial"),
        "The service that clients reach: 127.0.0.1:80, host:80, [::1]:80, or for TCP a Twisted endpoint such as "
        "unix:/run/app.sock.",
        default=SERVICE,
        key="host.",
        in_reference=True,
        reload=AT_ONCE,
    ),
    Setting(
        "service",
        Kind(services, "``NAME=ADDRESS``"),
        "NAME=ADDRESS, such as web=127.0.0.1:80 or dns=udp:127.0.0.1:53: a service that clients ask for by name. May "
        "be repeated. In the environment, commas separate several.",
        default=(),
        key="host.services",
        repeatable=True,
        reload=AT_ONCE,
    ),
    Setting(
        "dial-timeout",
        TIME,
        "Seconds that a service has to accept a connection.",
        HostSettings,
        key="host.",
        reload=AT_ONCE,
    ),
    Setting(
        "check-services",
        YES_OR_NO,
        "Whether to connect to each TCP service now and then, without sending anything, and log whether it answers.",
        HostSettings,
        key="host.",
        reload=AT_ONCE,
    ),
    Setting("max-clients", COUNT, "Clients that may be connected at once.", HostSettings, key="host.", reload=AT_ONCE),
    *identities.HOST,
)

CLIENT_OWN = (
    Setting(
        "id",
        HOST_ID,
        "Name of the host to connect to. Required.",
        ClientSettings,
        no_default="required",
        key="client.",
        in_reference=True,
    ),
    Setting(
        "local",
        Kind(text, "address to listen on"),
        "Where programs connect to reach the host's service: 127.0.0.1:8080, :8080, [::1]:8080, or for TCP a Twisted "
        "endpoint such as unix:/run/app.sock.",
        default=SERVICE,
        key="client.",
        in_reference=True,
        reload=AT_ONCE,
    ),
    Setting(
        "forward",
        Kind(forwards, "``ADDRESS=NAME``"),
        "ADDRESS=NAME, such as 127.0.0.1:8080=web or udp:127.0.0.1:5353=dns: where programs reach the host's service "
        "of that name. May be repeated. In the environment, commas separate several.",
        default=(),
        key="client.forwards",
        repeatable=True,
        reload=AT_ONCE,
    ),
    Setting(
        "wait-timeout",
        TIME,
        "Seconds that a new connection waits for a host that is not connected, before it is closed.",
        ClientSettings,
        key="client.",
        reload=AT_ONCE,
    ),
    *identities.CLIENT,
)

SIGNAL = (*SIGNAL_OWN, *LOG, *STATUS)
HOST = (*HOST_OWN, *ENDS)
CLIENT = (*CLIENT_OWN, *ENDS)

#: One file may serve all three.
ALL = SIGNAL + HOST + CLIENT
VARIABLES = frozenset(variable for setting in ALL for variable in setting.variables)
