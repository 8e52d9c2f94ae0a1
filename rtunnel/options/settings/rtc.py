"""Every setting of the three plugins of the WebRTC tunnel, as :mod:`rtunnel.options.settings.reverse` has the others.

Their file has the layout of the reference program's, and one may serve all three.
"""

from __future__ import annotations

from dataclasses import replace

from rtunnel.addresses import ListenAddress
from rtunnel.coercions import choice, integer, listen_address, optional, path, text
from rtunnel.options.settings.reverse import GIB, KIB, LOG, MANY, count_setting, size_setting, time_setting
from rtunnel.options.settings.rtc_coercions import (
    bearer_token,
    host_id,
    ice_interface,
    list_of,
    origin,
    signal_url,
    stun_server,
    turn_server,
)
from rtunnel.options.settings.rtc_services import forwards, services
from rtunnel.options.settings.sources import Setting
from rtunnel.wire.limits import ChannelLimits
from rtunnel.wire.webrtc.signaling import MAX_MESSAGE

ADDR = ":8080"
SIGNAL_URL = "ws://localhost:8080"
STUN_SERVER = "stun:stun.l.google.com:19302"
#: Where both ends of the reference program have their service.
SERVICE = "localhost:25565"

_LIMITS = ChannelLimits()


def _in(section: str, setting: Setting) -> Setting:
    """*setting* with its key in a section of the file."""
    return replace(setting, file_key=f"{section}.{setting.key}")


SIGNAL = (
    Setting(
        "addr",
        listen_address,
        ListenAddress.parse(ADDR),
        "Where hosts and clients connect: :8080, 1.2.3.4:8080, [::1]:8080, or a Twisted endpoint such as unix:/path or "
        "systemd:domain=INET:index=0.",
        ADDR,
        file_key="server.addr",
        reference_variable="WTT_SERVER_ADDR",
    ),
    Setting(
        "tls-cert-file",
        optional(path, None),
        None,
        "PEM file with the certificate for WSS, and those between it and its root; without it: WS.",
        file_key="server.tls.cert_file",
        reference_variable="WTT_SERVER_TLS_CERT_FILE",
    ),
    Setting(
        "tls-key-file",
        optional(path, None),
        None,
        "PEM file with the private key of that certificate.",
        file_key="server.tls.key_file",
        reference_variable="WTT_SERVER_TLS_KEY_FILE",
    ),
    Setting(
        "allowed-origins",
        list_of(origin),
        ("*",),
        "Web pages that may connect, as origins such as https://example.com with * as wildcard; programs that are no "
        "browser send none. Between commas, or repeated.",
        "*",
        file_key="server.allowed_origins",
        repeatable=True,
        reference_variable="WTT_SERVER_ALLOWED_ORIGINS",
    ),
    Setting(
        "valid-tokens",
        list_of(bearer_token),
        (),
        "Bearer tokens, of which hosts and clients must bring one. Between commas, or repeated. Other users of the "
        "machine can see a flag: better use the environment or the file.",
        file_key="server.auth.valid_tokens",
        repeatable=True,
        reference_variable="WTT_SERVER_AUTH_VALID_TOKENS",
    ),
    _in("server", count_setting("max-hosts", 4096, "Hosts that may be registered at once.")),
    _in("server", count_setting("max-clients", 4096, "Clients that may be connected at once.")),
    _in(
        "server",
        count_setting("max-rate", 50, "Messages per second that a connection may send; ten times as many in a burst."),
    ),
    _in(
        "server",
        Setting(
            "max-per-address",
            integer(0, MANY),
            64,
            "Connections from one IP address at once; 0 means any number.",
            "64",
        ),
    ),
    # Our ends take no larger ones: one that came through would cost its target the connection.
    _in("server", size_setting("max-message", 4 * KIB, MAX_MESSAGE, MAX_MESSAGE, "Largest message that is accepted.")),
    *LOG,
)

ENDS = (
    Setting(
        "signal",
        signal_url,
        signal_url(SIGNAL_URL),
        "The signaling server: ws://host:8080, or wss://host/path for TLS.",
        SIGNAL_URL,
        reference_variable="WTT_SIGNAL",
    ),
    Setting(
        "protocol",
        choice("tcp", "udp"),
        "tcp",
        "What the service without a name is: tcp or udp.",
        "tcp",
        reference_variable="WTT_PROTOCOL",
    ),
    Setting(
        "token",
        optional(bearer_token, None),
        None,
        "Bearer token for the signaling server. Other users of the machine can see a flag: better use the environment "
        "or the file.",
        reference_variable="WTT_TOKEN",
    ),
    Setting(
        "ca-file",
        optional(path, None),
        None,
        "PEM file with the CAs to trust for wss: and turns:; those of the system if not given.",
    ),
    Setting(
        "stun-server",
        stun_server,
        stun_server(STUN_SERVER),
        "STUN server that tells the public address, stun:host:port; empty for none, in the environment too.",
        STUN_SERVER,
        file_key="stun.server",
        reference_variable="WTT_STUN_SERVER",
        may_be_empty=True,
    ),
    Setting(
        "turn-server",
        list_of(turn_server),
        (),
        "TURN server that relays where there is no direct path: turn:host:3478?transport=udp or tcp, turns:host:5349 "
        "for TLS. Between commas, or repeated.",
        file_key="turn.servers",
        repeatable=True,
    ),
    Setting(
        "turn-user",
        optional(text, ""),
        "",
        "User name for the TURN servers.",
        file_key="turn.user",
    ),
    Setting(
        "turn-credential",
        optional(text, ""),
        "",
        "Password of that user. Other users of the machine can see a flag: better use the environment or the file.",
        file_key="turn.credential",
    ),
    Setting(
        "turn-secret",
        optional(text, ""),
        "",
        "In place of a password: the secret shared with the TURN servers, from which passwords for a short time are "
        "made (coturn's static-auth-secret).",
        file_key="turn.secret",
    ),
    Setting(
        "ice-interface",
        list_of(ice_interface),
        (),
        "Which addresses of this machine may be used: name of an interface, IP address or network, loopback too; all "
        "but loopback if not given. Between commas, or repeated.",
        file_key="ice.interfaces",
        repeatable=True,
    ),
    time_setting("reconnect-min", 1.0, "Seconds before the first attempt to reconnect."),
    time_setting("reconnect-max", 30.0, "Most seconds between two attempts to reconnect; there is always another."),
    time_setting("connect-timeout", 10.0, "Seconds that an attempt to reach the signaling server may take."),
    time_setting(
        "drain",
        10.0,
        "Seconds that open connections are given to finish after SIGTERM or SIGINT; a second signal ends them at once.",
        zero=True,
    ),
    _in("limits", time_setting("udp-idle", 60.0, "Seconds without a datagram after which a UDP flow is dropped.")),
    _in("limits", count_setting("max-flows", 1024, "UDP flows at once; the one idle longest makes room.")),
    _in(
        "limits",
        count_setting("max-streams", _LIMITS.max_streams, "Data channels that one peer connection may have at once."),
    ),
    _in(
        "limits",
        size_setting(
            "initial-credit",
            KIB,
            GIB,
            _LIMITS.initial_credit,
            "Bytes that the other end may send on a new stream before it is granted more.",
        ),
    ),
    _in(
        "limits",
        size_setting(
            "max-window",
            KIB,
            GIB,
            _LIMITS.max_window,
            "Most bytes granted on one stream and not yet delivered; what one stream can carry is this per round trip.",
        ),
    ),
    _in(
        "limits",
        size_setting(
            "peer-buffer",
            KIB,
            1024 * GIB,
            _LIMITS.peer_buffer,
            "Most bytes granted to one peer on all streams together and not yet delivered: the bound of its memory.",
        ),
    ),
    *LOG,
)

HOST = (
    Setting(
        "id",
        host_id,
        None,
        "Name under which clients find this host. Required.",
        file_key="host.id",
        reference_variable="WTT_HOST_ID",
    ),
    Setting(
        "remote",
        text,
        SERVICE,
        "The service that clients reach: 127.0.0.1:80, host:80, [::1]:80, or for TCP a Twisted endpoint such as "
        "unix:/run/app.sock.",
        SERVICE,
        file_key="host.remote",
        reference_variable="WTT_HOST_REMOTE",
    ),
    Setting(
        "service",
        services,
        (),
        "NAME=ADDRESS, such as web=127.0.0.1:80 or dns=udp:127.0.0.1:53: a service that clients ask for by name. May "
        "be repeated. In the environment, several are separated by commas.",
        file_key="host.services",
        repeatable=True,
    ),
    *ENDS,
    _in("host", time_setting("dial-timeout", 5.0, "Seconds that a service is given to accept a connection.")),
    _in("host", count_setting("max-clients", 256, "Clients that may be connected at once.")),
)

CLIENT = (
    Setting(
        "id",
        host_id,
        None,
        "Name of the host to connect to. Required.",
        file_key="client.id",
        reference_variable="WTT_CLIENT_ID",
    ),
    Setting(
        "local",
        text,
        SERVICE,
        "Where programs connect to reach the host's service: 127.0.0.1:8080, :8080, [::1]:8080, or for TCP a Twisted "
        "endpoint such as unix:/run/app.sock.",
        SERVICE,
        file_key="client.local",
        reference_variable="WTT_CLIENT_LOCAL",
    ),
    Setting(
        "forward",
        forwards,
        (),
        "ADDRESS=NAME, such as 127.0.0.1:8080=web or udp:127.0.0.1:5353=dns: where programs reach the host's service "
        "of that name. May be repeated. In the environment, several are separated by commas.",
        file_key="client.forwards",
        repeatable=True,
    ),
    *ENDS,
    _in(
        "client",
        time_setting(
            "wait-timeout",
            10.0,
            "Seconds that a new connection waits while the host is not connected; then it is closed.",
        ),
    ),
)

#: One file may serve all three.
ALL = SIGNAL + HOST + CLIENT
VARIABLES = frozenset(variable for setting in ALL for variable in setting.variables)
