"""What the payloads say: INIT, HELLO, NEW_CONN, READY, ERROR, TICKETS and ATTACH (docs/wire.rst, "Messages").

Plain functions from bytes to meaning and back. Whatever a peer sends ends as a value or as ``ValueError``, and text of
the peer is cleaned before anybody can log it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TypeGuard

VERSION = 1
#: A longer HELLO is not one of ours.
MAX_HELLO = 4096
#: The longest text that is taken over from a peer, in characters.
MAX_TEXT = 200
#: Tickets of one frame; what is beyond is dropped.
MAX_TICKETS = 64
#: A longer TICKETS is not one of ours, in bytes.
MAX_TICKETS_PAYLOAD = 4096
#: No ticket is good for longer, in seconds.
MAX_EXPIRES = 3600.0

#: Capability: streams may travel on data connections of their own.
DIRECT = "direct"
#: Capability: the client wants none of them to travel on the link.
DIRECT_ONLY = "direct-only"

SCOPE_LINK = "link"
SCOPE_TUNNEL = "tunnel"
SCOPE_STREAM = "stream"


def clean_text(text: str) -> str:
    """A peer's *text* as it may stand in a log line: one line, printable, not too long."""
    if len(text) <= MAX_TEXT and text.isascii() and text.isprintable():
        return text
    text = "".join(character if character.isprintable() else "?" for character in text[:MAX_TEXT])
    return text.encode("utf-8", "replace").decode("utf-8")


def _load(payload: bytes) -> dict[str, object]:
    # The texts are few and fixed: what is ignored is counted by them.
    try:
        value = json.loads(payload.decode("utf-8"))
    except ValueError:
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


# To make one costs more than to use it.
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def _dump(value: dict[str, object]) -> bytes:
    return _ENCODER.encode(value).encode("utf-8")


def _is_text(value: object) -> TypeGuard[str]:
    """JSON can write half of a surrogate pair, which no encoding can."""
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode("utf-8") == value


def _text(value: object) -> str:
    return clean_text(value) if isinstance(value, str) else ""


def _is_random(value: object) -> TypeGuard[str]:
    """128 bits as we write them: 32 hexadecimal digits in lower case."""
    return isinstance(value, str) and len(value) == 32 and not value.strip("0123456789abcdef")


# INIT


@dataclass(frozen=True, slots=True)
class TunnelRequest:
    """INIT: serve *port* (0: the shared public port) from the client's *local* address."""

    port: int
    local: str


def encode_init(request: TunnelRequest) -> bytes:
    """``<remote port>:<local address>`` in ASCII; what is not ASCII becomes ``?``, as the address is for logs only."""
    return f"{request.port}:{request.local}".encode("ascii", "replace")


def decode_init(payload: bytes) -> TunnelRequest:
    """:raises ValueError: there is no port number from 0 to 65535, or no colon behind it."""
    port, colon, local = payload.decode("ascii", "replace").partition(":")
    if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise ValueError(f"INIT says {clean_text(port)!r} where a port from 0 to 65535 and a colon belong")
    return TunnelRequest(int(port), clean_text(local))


# HELLO


@dataclass(frozen=True, slots=True)
class Hello:
    """HELLO: what one end can do. *initial_credit* is in bytes, *session* is 32 hexadecimal digits."""

    session: str
    initial_credit: int
    version: int = VERSION
    agent: str = ""
    capabilities: frozenset[str] = field(default_factory=frozenset)
    token: str | None = None


def encode_hello(hello: Hello) -> bytes:
    """The JSON of *hello*; the token is left out where there is none."""
    value: dict[str, object] = {
        "version": hello.version,
        "agent": hello.agent,
        "capabilities": sorted(hello.capabilities),
        "session": hello.session,
        "initial_credit": hello.initial_credit,
    }
    if hello.token is not None:
        value["token"] = hello.token
    return _dump(value)


def decode_hello(payload: bytes) -> Hello:
    """:raises ValueError: it is malformed, so that the link stays in reference mode."""
    if len(payload) > MAX_HELLO:
        raise ValueError(f"HELLO of {len(payload)} bytes")
    value = _load(payload)
    version, credit, session = value.get("version"), value.get("initial_credit"), value.get("session")
    capabilities, token = value.get("capabilities", []), value.get("token")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError("HELLO without a version")
    if not isinstance(credit, int) or isinstance(credit, bool) or not 0 <= credit < 2**62:
        raise ValueError("HELLO without an initial credit")
    if not _is_random(session):
        raise ValueError("HELLO without a session of 32 hexadecimal digits")
    if not isinstance(capabilities, list) or not all(isinstance(name, str) for name in capabilities):
        raise ValueError("HELLO whose capabilities are not a list of names")
    if token is not None and not _is_text(token):
        raise ValueError("HELLO whose token is not a text")
    return Hello(session, credit, version, _text(value.get("agent")), frozenset(capabilities), token)


# NEW_CONN between two extended ends


def encode_visitor(tunnel: int, visitor: str) -> bytes:
    """NEW_CONN's payload: which tunnel, and who came (``192.0.2.1:5000``)."""
    return _dump({"tunnel": tunnel, "visitor": visitor})


def decode_visitor(payload: bytes) -> tuple[int, str]:
    """:raises ValueError: no tunnel number."""
    value = _load(payload)
    tunnel = value.get("tunnel")
    if not isinstance(tunnel, int) or isinstance(tunnel, bool):
        raise ValueError("NEW_CONN without a tunnel number")
    return tunnel, _text(value.get("visitor"))


# READY


def encode_ready(address: str) -> bytes:
    """READY's payload: the public address that now serves the tunnel, ``host:port``."""
    return _dump({"address": address})


def decode_ready(payload: bytes) -> str:
    """:raises ValueError: no address."""
    address = _text(_load(payload).get("address"))
    if not address:
        raise ValueError("READY without an address")
    return address


# ERROR


@dataclass(frozen=True, slots=True)
class WireError:
    """ERROR: *scope* is ``link``, ``tunnel`` or ``stream``; *code* one of :class:`rtunnel.errors.Code`, or another."""

    scope: str
    code: str
    message: str


def encode_error(error: WireError) -> bytes:
    """The JSON of *error*."""
    return _dump({"scope": error.scope, "code": str(error.code), "message": error.message})


def decode_error(payload: bytes) -> WireError:
    """:raises ValueError: the scope is none of the three."""
    value = _load(payload)
    scope = value.get("scope")
    if scope not in (SCOPE_LINK, SCOPE_TUNNEL, SCOPE_STREAM):
        raise ValueError("ERROR without a known scope")
    return WireError(str(scope), _text(value.get("code")) or "unknown", _text(value.get("message")))


# Data connections


def encode_tickets(tickets: list[str], expires: float) -> bytes:
    """TICKETS' payload: up to :data:`MAX_TICKETS` of them, and the seconds that they are good."""
    return _dump({"tickets": tickets, "expires": expires})


def decode_tickets(payload: bytes) -> tuple[list[str], float]:
    """:raises ValueError: it is malformed, or it cannot be meant."""
    if len(payload) > MAX_TICKETS_PAYLOAD:
        raise ValueError(f"more than {MAX_TICKETS_PAYLOAD} bytes")
    value = _load(payload)
    tickets, expires = value.get("tickets"), value.get("expires")
    if not isinstance(tickets, list) or not all(_is_random(ticket) for ticket in tickets):
        raise ValueError("no list of 32 hexadecimal digits each")
    if not isinstance(expires, int | float) or isinstance(expires, bool) or not 0 < expires <= MAX_EXPIRES:
        raise ValueError("no time for which they are good")
    return tickets[:MAX_TICKETS], float(expires)


def encode_attach(ticket: str, ping_every: float) -> bytes:
    """``<ticket>:<milliseconds>`` in ASCII: the client wants a PING after so much silence (seconds here)."""
    return f"{ticket}:{min(max(int(ping_every * 1000), 1), 9999999)}".encode("ascii")


def decode_attach(payload: bytes) -> tuple[str, float | None]:
    """The ticket, and the seconds of silence after which the client wants a PING; None if it leaves that to us.

    :raises ValueError: it is malformed.
    """
    ticket, colon, wish = payload.decode("ascii", "replace").partition(":")
    if not _is_random(ticket):
        raise ValueError("no ticket of 32 hexadecimal digits")
    if not colon:
        return ticket, None
    if not wish.isdigit() or len(wish) > 7:
        raise ValueError("no number of milliseconds behind the ticket")
    return ticket, int(wish) / 1000
