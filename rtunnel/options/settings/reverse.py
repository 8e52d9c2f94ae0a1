"""Every setting of every plugin, once: its name (of flag, variable and key), its bounds, its default, its help."""

from __future__ import annotations

from rtunnel.addresses import ListenAddress, PortRanges
from rtunnel.coercions import (
    choice,
    dial_address,
    integer,
    interface,
    listen_address,
    optional,
    port_ranges,
    seconds,
    server_address,
    show_seconds,
    show_size,
    size,
)
from rtunnel.options.settings.sources import Setting
from rtunnel.options.settings.tls import ADMISSION, TLS, TLS_CLIENT, TOKEN, TOKEN_OVER_PLAIN_TCP
from rtunnel.options.settings.tunnels import tunnels
from rtunnel.reverse.settings import DATA_PLANES
from rtunnel.wire.limits import LinkLimits

_LIMITS = LinkLimits()
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MANY = 1_000_000


def count_setting(name: str, default: int, help: str) -> Setting:
    return Setting(name, integer(1, MANY), default, help, str(default))


def size_setting(name: str, lowest: int, highest: int, default: int, help: str) -> Setting:
    return Setting(name, size(lowest, highest), default, help, show_size(default))


def time_setting(name: str, default: float, help: str, *, zero: bool = False) -> Setting:
    return Setting(name, seconds(zero=zero), default, help, show_seconds(default))


LOG = (
    Setting("log-format", choice("text", "json"), "text", "Format of the log: text or json.", "text"),
    Setting(
        "log-level",
        choice("debug", "info", "warn", "error"),
        "info",
        "Least level that is logged: debug (which tells of every connection), info, warn or error.",
        "info",
    ),
)

LINK = (
    count_setting("max-streams", _LIMITS.max_streams, "Visitors that one link may carry at once."),
    Setting(
        "data-plane",
        choice(*DATA_PLANES),
        "auto",
        "How visitors travel: auto (each on a data connection of its own where one waits, else by the link), direct "
        "(they wait for one) or mux (by the link).",
        "auto",
    ),
    count_setting("pool", 64, "Most data connections of a link that wait for visitors."),
    size_setting(
        "initial-credit",
        KIB,
        GIB,
        _LIMITS.initial_credit,
        "Bytes that the other end may send on a new stream before it is granted more.",
    ),
    size_setting(
        "max-window",
        KIB,
        GIB,
        _LIMITS.max_window,
        "Most bytes granted on one stream and not yet delivered; what one stream can carry is this per round trip.",
    ),
    size_setting(
        "link-buffer",
        KIB,
        1024 * GIB,
        _LIMITS.link_buffer,
        "Most bytes granted on all streams of a link together and not yet delivered: the bound of its memory.",
    ),
    size_setting("max-frame", 64 * KIB, 16 * MIB, _LIMITS.max_frame, "Largest frame that is accepted, 64K to 16M."),
    time_setting(
        "keepalive-interval",
        _LIMITS.keepalive_interval,
        "Seconds of silence on a link after which the other end is asked whether it is there.",
    ),
    time_setting(
        "dead-after",
        _LIMITS.dead_after,
        "Seconds of silence after which a link is dropped; more than --keepalive-interval.",
    ),
)

DRAIN = time_setting(
    "drain",
    10.0,
    "Seconds that open streams are given to finish after SIGTERM or SIGINT; a second signal ends them at once.",
    zero=True,
)

CONTROL_LISTEN = "tcp:7000"
ALLOW_PORTS = "1024-65535"

SERVER = (
    Setting(
        "control-listen",
        listen_address,
        ListenAddress.parse(CONTROL_LISTEN),
        "Where clients connect: :7000, 1.2.3.4:7000, [::1]:7000, or a Twisted endpoint such as unix:/path or "
        "systemd:domain=INET:index=0.",
        CONTROL_LISTEN,
    ),
    Setting(
        "public-listen",
        optional(listen_address, None),
        None,
        "A shared public port, such as :8080, for the clients that ask for no port of their own; none if not given.",
    ),
    Setting(
        "public-interface",
        optional(interface, ""),
        "",
        "IP address on which the ports that clients ask for are opened, such as 192.0.2.1, or :: for all addresses of "
        "both families; all IPv4 addresses if not given.",
    ),
    Setting(
        "allow-ports",
        port_ranges,
        PortRanges.parse(ALLOW_PORTS),
        "Ports that clients may ask for, such as 8000-8999,9443, or none.",
        ALLOW_PORTS,
    ),
    Setting(
        "route",
        choice("round-robin", "least-connections"),
        "round-robin",
        "Which client serves a visitor of a public port that several share: round-robin or least-connections.",
        "round-robin",
    ),
    DRAIN,
    count_setting("max-links", 4096, "Clients that may be connected at once."),
    count_setting("max-tunnels", _LIMITS.max_tunnels, "Tunnels that one client may have."),
    time_setting(
        "handshake-timeout", 10.0, "Seconds in which a new connection to the control port must say what it is."
    ),
    time_setting(
        "visitor-idle",
        0.0,
        "Seconds without a byte in either direction after which a visitor is closed; 0 means never.",
        zero=True,
    ),
    *LINK,
    *LOG,
    count_setting("max-handshakes", 256, "Connections that may be in the TLS handshake at once."),
    *TLS,
    *ADMISSION,
)

CLIENT = (
    Setting(
        "server",
        server_address,
        None,
        "The server's control port: 1.2.3.4:7000, [::1]:7000, host:7000, or a Twisted endpoint such as "
        "tcp:host:7000. Required.",
    ),
    Setting(
        "local",
        dial_address,
        None,
        "The service that visitors reach: 127.0.0.1:80, :80, host:80, [::1]:80, or a Twisted endpoint such as "
        "unix:/run/app.sock.",
    ),
    Setting(
        "remote-port",
        integer(0, 65535),
        0,
        "Public port to ask the server for, for the service of --local; 0 is the server's shared port.",
        "0",
    ),
    Setting(
        "tunnel",
        tunnels,
        (),
        "REMOTE_PORT:LOCAL, such as 8080:127.0.0.1:80 or 8080:80. May be repeated: many services over one link. In "
        "the environment, several are separated by commas.",
        file_key="tunnels",
        repeatable=True,
    ),
    Setting("reconnect-min", seconds(zero=False), 1.0, "Seconds before the first attempt to reconnect.", "1"),
    Setting(
        "reconnect-max",
        seconds(zero=False),
        30.0,
        "Most seconds between two attempts to reconnect; there is always another.",
        "30",
    ),
    time_setting("connect-timeout", 10.0, "Seconds that an attempt to connect to the server may take."),
    time_setting("dial-timeout", 5.0, "Seconds that a local service is given to accept a connection."),
    DRAIN,
    *LINK,
    *LOG,
    *TLS,
    *TLS_CLIENT,
    TOKEN,
    TOKEN_OVER_PLAIN_TCP,
)

VARIABLES = frozenset(setting.variable for setting in SERVER + CLIENT)
