"""What to change, in sentences, by what went wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rtunnel.addresses import DialAddress

#: What to do about the client's own certificate.
RENEW = (
    "Where the CA is: 'rtunnel pki renew NAME' and 'rtunnel pki bundle NAME -o NAME.pem'; here: 'rtunnel "
    "pki import NAME.pem'. If it has not expired, a clock is wrong."
)
#: What to do about clocks that differ.
CLOCKS = (
    "Set the clock that is wrong: certificates and TURN credentials are good for a time. 'timedatectl' on both "
    "machines shows whether it is synchronized."
)
#: What an error of TLS has in it, and what to do about it; the first that fits counts.
_TLS: Sequence[tuple[str, str]] = (
    (
        "refuses our certificate: it is not from a CA",
        (
            "Both ends need certificates of one CA. On the server's machine: 'rtunnel pki client NAME -o NAME.pem'; "
            "here: 'rtunnel pki import NAME.pem'."
        ),
    ),
    (
        "its signature is wrong",
        (
            "The certificate here is from a CA of the same name, and not from the one that the server has. On the "
            "server's machine: 'rtunnel pki client NAME -o NAME.pem'; here: 'rtunnel pki import NAME.pem'."
        ),
    ),
    ("refuses our certificate: it has expired", RENEW),
    ("refuses our certificate: it is revoked", "If that was a mistake, make a new one: 'rtunnel pki client NAME'."),
    ("refuses our certificate", "The server's log says why in full; 'rtunnel pki show' lists what is wrong here."),
    (
        "is not valid before",
        "Set the clocks of both machines; 'timedatectl' shows whether they are synchronized.",
    ),
    (
        "expired on",
        (
            "On the server's machine: 'rtunnel pki renew server'. If its certificate has not expired, this machine's "
            "clock is wrong."
        ),
    ),
    (
        "is not from a CA",
        (
            "Either this is another server than you think, or its certificate is from another CA. Bring this client's "
            "files from that server: there 'rtunnel pki client NAME -o NAME.pem', here 'rtunnel pki import NAME.pem'."
        ),
    ),
    (
        ", not for ",
        (
            "Give a name that the server's certificate is for with --tls-server-name, or give the server one "
            "with this name: 'rtunnel pki renew server --name NAME' there."
        ),
    ),
    ("speaks no TLS", "Start the server with --tls, or remove --tls here."),
    ("the server speaks TLS", "Add --tls here."),
    (
        "web server",
        "Give the control port of an rtunnel-server (--control-listen there) in --server, not that of a web server.",
    ),
    ("that is SSH", "Give the control port of an rtunnel-server (--control-listen there) in --server."),
    (
        "closed the connection in the TLS handshake",
        (
            "Something on that port, or on the way, does not want this TLS. Is it the control port of an "
            "rtunnel-server, with no TLS proxy in front?"
        ),
    ),
    ("within", "Something accepts connections there, and says nothing. Is that the control port of an rtunnel-server?"),
    ("unknown protocol", "Give the control port of an rtunnel-server (--control-listen there) in --server."),
)
_RIGHTS: Sequence[tuple[str, str]] = (
    ("has no token", "Give the token with --token, or RTUNNEL_TOKEN, or 'token' in the file."),
    (
        "token is not valid",
        "The token here is none of the server's (--valid-tokens, or its clients file); compare the two.",
    ),
    ("came over plain TCP", "Use --tls at both ends."),
    ("clients file", "Add this client to the clients file of the server (--clients)."),
    ("max-links", "The server is full (--max-links)."),
)
_PROXY: Sequence[tuple[str, str]] = (
    ("user and a password", "Write --via with the right user and password: http://USER:PASSWORD@HOST:PORT."),
    ("user and password", "Write --via with the right user and password: http://USER:PASSWORD@HOST:PORT."),
    ("403", "Its rules forbid that port or host. Let the server listen on port 443, or ask who runs the proxy."),
    ("silent", "Is that port a proxy of the kind that --via says, http:// or socks5://?"),
    ("does not speak", "Is that port a proxy of the kind that --via says, http:// or socks5://?"),
)
_TUNNEL: Sequence[tuple[str, str]] = (
    ("port-in-use", "Choose another port, or stop what holds it; the server's log names that client."),
    ("host-in-use", "Choose another name, or stop the client that has it; the server's log names it."),
    ("port-not-allowed", "Ask for another port, or allow it at the server (--allow-ports, or its clients file)."),
    ("host-not-allowed", "Allow the name at the server, in its clients file."),
    ("no-shared-port", "Give a remote port here, or --public-listen at the server."),
)


def _first(table: Sequence[tuple[str, str]], text: str) -> str:
    return next((remedy for part, remedy in table if part in text), "")


def for_tls(text: str) -> str:
    """Return what to do about a TLS handshake, or a server, that failed."""
    return _first(_TLS, text) or "Is that the control port of an rtunnel-server? Its log says more."


def for_rights(text: str) -> str:
    """Return what to do about a server that does not let the client in."""
    return _first(_RIGHTS, text) or "The server's log says more."


def for_proxy(text: str, server: DialAddress) -> str:
    """Return what to do about a proxy."""
    return _first(_PROXY, text) or f"Does the proxy's machine reach {server}, and is the server running?"


def for_tunnel(text: str) -> str:
    """Return what to do about a tunnel that the server refuses."""
    return _first(_TUNNEL, text) or "The server's log says more."


def server_is_down(server: DialAddress) -> str:
    """Return what to do where nobody listens."""
    return (
        f"Start the server on that machine, and compare its --control-listen with {server}: 'rtunnel status "
        "rtunnel-server' there shows where it listens. If it listens on 127.0.0.1 only, give it another address."
    )


def foreign(server: DialAddress) -> str:
    """Return what to do where something else listens."""
    return f"Something else than an rtunnel-server listens at {server}: give its control port in --server."
