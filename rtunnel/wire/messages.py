"""The payloads of HELLO, NEW_CONN, READY, ERROR, TICKETS, ATTACH, PATH, STATE and NOTICE (docs/wire.rst, "Messages").

Each message has a function that encodes it and one that decodes it. Whatever a peer sends, decoding returns a value or
raises ``ValueError``. Text from the peer is cleaned so that it can be logged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TypeGuard

VERSION = 1
#: The longest HELLO that is accepted, in bytes.
MAX_HELLO = 4096
#: The longest text that is accepted from a peer, in characters; the rest is cut off.
MAX_TEXT = 200
#: How many tickets one frame may announce.
MAX_TICKETS = 64
#: The longest TICKETS that is accepted, in bytes.
MAX_TICKETS_PAYLOAD = 4096
#: The longest time for which a ticket may be good, in seconds.
MAX_EXPIRES = 3600.0
# Times of HELLO are before this, in seconds since 1970: a float has milliseconds there, and a log has room for it.
_MAX_TIME = 2.0**40
# How many hedges HELLO may name, and how long a name may be.
_MAX_HEDGES = 16
#: Digits of the number of a link of its process.
_MAX_NUMBER = 4
_MAX_HEDGE = 64
# The lengths of a ticket's id and of a random number in ATTACH, in bytes.
_TICKET_ID = 16
_RANDOM = 32

#: Capability: streams may travel on data connections.
DIRECT = "direct"
#: Capability: the client wants no stream to travel on the link.
DIRECT_ONLY = "direct-only"
#: Capability: tunnels may be for UDP.
UDP = "udp"
#: Capability: the server offers the UDP path before there is a UDP tunnel.
UDP_PATH = "udp-path"
#: Capability: tunnels may be for host names.
HOSTS = "hosts"
#: Capability: tunnels for ports may have rules, and STATE and NOTICE are known.
RULES = "rules"
#: Capability: the client may ask whether it would get a tunnel.
CHECK = "check"

SCOPE_LINK = "link"
SCOPE_TUNNEL = "tunnel"
SCOPE_STREAM = "stream"


def clean_text(text: str) -> str:
    """Return a peer's *text* in a form that can be logged: one line, printable, at most :data:`MAX_TEXT` characters."""
    if len(text) <= MAX_TEXT and text.isascii() and text.isprintable():
        return text
    text = "".join(character if character.isprintable() else "?" for character in text[:MAX_TEXT])
    return text.encode("utf-8", "replace").decode("utf-8")


def _load(payload: bytes) -> dict[str, object]:
    # The peer must not choose these texts: ignored frames are counted by them.
    try:
        value = json.loads(payload.decode("utf-8"))
    except ValueError:
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


# Making an encoder costs more than using it.
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def _dump(value: dict[str, object]) -> bytes:
    return _ENCODER.encode(value).encode("utf-8")


def _is_text(value: object) -> TypeGuard[str]:
    """Return whether *value* is text that UTF-8 can encode. JSON can contain half of a surrogate pair."""
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode("utf-8") == value


def _text(value: object) -> str:
    return clean_text(value) if isinstance(value, str) else ""


def _is_session(value: object) -> TypeGuard[str]:
    """Return whether *value* names a link: random, and perhaps which link of its process it is, such as ``+1``."""
    if not isinstance(value, str):
        return False
    name, plus, number = value.partition("+")
    is_number = not plus or (number.isascii() and number.isdecimal() and len(number) <= _MAX_NUMBER)
    return _is_random(name) and is_number


def _is_random(value: object) -> TypeGuard[str]:
    """Return whether *value* is 128 bits as 32 hexadecimal digits in lower case."""
    return isinstance(value, str) and len(value) == 32 and not value.strip("0123456789abcdef")


# HELLO


@dataclass(frozen=True, slots=True)
class Hello:
    """HELLO: what one end can do (docs/wire.rst, "Negotiation").

    :ivar session: 32 hexadecimal digits, by which the server recognises a returning client. Further links of a client
        have a plus and a number behind these; see :attr:`process`.
    :ivar initial_credit: how many bytes its sender will receive on a new stream.
    :ivar version: the version of the protocol.
    :ivar agent: the name and version of the program, for logs.
    :ivar capabilities: the names of optional features.
    :ivar token: the client's secret, or None.
    :ivar time: what the server's clock says, in seconds since 1970; None: it does not tell.
    :ivar hedge: the KEMs beside ML-KEM whose secrets its sender wants in the root, in their order.
    :ivar dead_after: the seconds of silence after which its sender gives a data connection up; None: it does not tell.
    """

    session: str
    initial_credit: int
    version: int = VERSION
    agent: str = ""
    capabilities: frozenset[str] = field(default_factory=frozenset)
    token: str | None = None
    time: float | None = None
    hedge: tuple[str, ...] = ()
    dead_after: float | None = None

    @property
    def process(self) -> str:
        """What all links of a client's process have in common: the session without the number of the link."""
        return self.session.partition("+")[0]


def encode_hello(hello: Hello) -> bytes:
    """Encode *hello*."""
    value: dict[str, object] = {
        "version": hello.version,
        "agent": hello.agent,
        "capabilities": sorted(hello.capabilities),
        "session": hello.session,
        "initial_credit": hello.initial_credit,
    }
    if hello.token is not None:
        value["token"] = hello.token
    if hello.time is not None:
        value["time"] = hello.time
    if hello.hedge:
        value["hedge"] = list(hello.hedge)
    if hello.dead_after is not None:
        value["dead_after"] = hello.dead_after
    return _dump(value)


def decode_hello(payload: bytes) -> Hello:
    """Decode HELLO.

    :raises ValueError: it is malformed. The link then becomes a reference link.
    """
    if len(payload) > MAX_HELLO:
        raise ValueError(f"HELLO of {len(payload)} bytes")
    value = _load(payload)
    version, credit, session = value.get("version"), value.get("initial_credit"), value.get("session")
    capabilities, token = value.get("capabilities", []), value.get("token")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError("HELLO without a version")
    if not isinstance(credit, int) or isinstance(credit, bool) or not 0 <= credit < 2**62:
        raise ValueError("HELLO without an initial credit")
    if not _is_session(session):
        raise ValueError("HELLO without a session of 32 hexadecimal digits")
    if not isinstance(capabilities, list) or not all(isinstance(name, str) for name in capabilities):
        raise ValueError("HELLO whose capabilities are not a list of names")
    if token is not None and not _is_text(token):
        raise ValueError("HELLO whose token is not text")
    names = frozenset(capabilities)
    agent, time, hedge = _text(value.get("agent")), _time(value.get("time")), read_hedges(value.get("hedge"))
    return Hello(session, credit, version, agent, names, token, time, hedge, _time(value.get("dead_after")))


def read_hedges(value: object) -> tuple[str, ...]:
    """Return the names of hedges. What is no list of names names none, and so differs from what any end could have."""
    if not isinstance(value, list) or len(value) > _MAX_HEDGES:
        return ()
    names = tuple(clean_text(name) for name in value if isinstance(name, str) and len(name) <= _MAX_HEDGE)
    return names if len(names) == len(value) else ()


def _time(value: object) -> float | None:
    """Return a time, or None if *value* is none. JSON as Python reads it has NaN and Infinity."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < _MAX_TIME else None


# NEW_CONN between two extended ends


def encode_visitor(tunnel: int, visitor: str) -> bytes:
    """Encode NEW_CONN of an extended link.

    :param tunnel: the number of the tunnel.
    :param visitor: the visitor's address, such as ``192.0.2.1:5000``.
    """
    return _dump({"tunnel": tunnel, "visitor": visitor})


def decode_visitor(payload: bytes) -> tuple[int, str]:
    """Decode NEW_CONN. Return the number of the tunnel, and the visitor's address; it may be empty.

    :raises ValueError: there is no tunnel number.
    """
    value = _load(payload)
    tunnel = value.get("tunnel")
    if not isinstance(tunnel, int) or isinstance(tunnel, bool):
        raise ValueError("NEW_CONN without a tunnel number")
    return tunnel, _text(value.get("visitor"))


# READY


def encode_ready(address: str) -> bytes:
    """Encode READY: *address* (``host:port``) now serves the tunnel; empty: the client would get one."""
    return _dump({"address": address})


def decode_ready(payload: bytes) -> str:
    """Decode READY. Return the public address, ``host:port``.

    :raises ValueError: there is no address.
    """
    address = _text(_load(payload).get("address"))
    if not address:
        raise ValueError("READY without an address")
    return address


# ERROR


@dataclass(frozen=True, slots=True)
class WireError:
    """ERROR (docs/wire.rst, "Errors").

    :ivar scope: ``link``, ``tunnel`` or ``stream``.
    :ivar code: an :class:`rtunnel.errors.Code`, or another one that the peer sent.
    :ivar message: the reason, for logs.
    """

    scope: str
    code: str
    message: str


def encode_error(error: WireError) -> bytes:
    """Encode *error*."""
    return _dump({"scope": error.scope, "code": str(error.code), "message": error.message})


def decode_error(payload: bytes) -> WireError:
    """Decode ERROR.

    :raises ValueError: the scope is unknown.
    """
    value = _load(payload)
    scope = value.get("scope")
    if scope not in (SCOPE_LINK, SCOPE_TUNNEL, SCOPE_STREAM):
        raise ValueError("ERROR without a known scope")
    return WireError(str(scope), _text(value.get("code")) or "unknown", _text(value.get("message")))


# Data connections


def encode_tickets(first: int, count: int, expires: float) -> bytes:
    """Encode TICKETS.

    :param first: the index of the first ticket.
    :param count: how many there are, 1 to :data:`MAX_TICKETS`.
    :param expires: for how many seconds they are good.
    """
    return _dump({"first": first, "count": count, "expires": expires})


def decode_tickets(payload: bytes) -> tuple[int, int, float]:
    """Decode TICKETS. Return the index of the first ticket, how many there are, and for how many seconds they are good.

    :raises ValueError: it is malformed, or a value is out of range.
    """
    if len(payload) > MAX_TICKETS_PAYLOAD:
        raise ValueError(f"more than {MAX_TICKETS_PAYLOAD} bytes")
    value = _load(payload)
    first, count, expires = value.get("first"), value.get("count"), value.get("expires")
    if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first < 2**62:
        raise ValueError("no index of the first ticket, or one out of range")
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= MAX_TICKETS:
        raise ValueError("no number of tickets, or one out of range")
    if not isinstance(expires, int | float) or isinstance(expires, bool) or not 0 < expires <= MAX_EXPIRES:
        raise ValueError("no lifetime of the tickets, or one out of range")
    return first, count, float(expires)


def encode_attach(id: bytes, client_random: bytes = b"") -> bytes:
    """Encode ATTACH.

    :param id: the 16 bytes that name the ticket.
    :param client_random: 32 random bytes if records will be sealed, else none.
    """
    return id + client_random


def decode_attach(payload: bytes) -> tuple[bytes, bytes]:
    """Decode ATTACH. Return the ticket's id, and the client's 32 random bytes, or none.

    :raises ValueError: it is malformed.
    """
    if len(payload) not in (_TICKET_ID, _TICKET_ID + _RANDOM):
        raise ValueError(f"{len(payload)} bytes where {_TICKET_ID} or {_TICKET_ID + _RANDOM} belong")
    return payload[:_TICKET_ID], payload[_TICKET_ID:]


# UDP


def encode_path(id: int, port: int) -> bytes:
    """Encode PATH: where the client's packets go.

    :param id: of the path, 0 to 2**32 - 1.
    :param port: the server's UDP port; 0: its number is that of the port to which the client has connected.
    """
    return _dump({"id": id, "port": port})


def decode_path(payload: bytes) -> tuple[int, int]:
    """Decode PATH. Return id and port.

    :raises ValueError: it is malformed.
    """
    value = _load(payload)
    id, port = value.get("id"), value.get("port")
    if not _is_number(id, 2**32 - 1) or not _is_number(port, 65535):
        raise ValueError("PATH without an id and a port")
    return id, port


# Tunnels


def encode_state(*, is_ready: bool, why: str = "") -> bytes:
    """Encode STATE: whether the service of a tunnel answers.

    :param why: why it does not, for logs.
    """
    return _dump({"ready": is_ready} if is_ready else {"ready": is_ready, "why": why})


def decode_state(payload: bytes) -> tuple[bool, str]:
    """Decode STATE. Return whether the service answers, and why it does not.

    :raises ValueError: it does not say whether.
    """
    value = _load(payload)
    is_ready = value.get("ready")
    if not isinstance(is_ready, bool):
        raise ValueError("STATE does not say whether the service is ready")
    return is_ready, _text(value.get("why"))


def encode_notice(message: str) -> bytes:
    """Encode NOTICE: what the operator of the client should know about a tunnel."""
    return _dump({"message": message})


def decode_notice(payload: bytes) -> str:
    """Decode NOTICE. Return its text.

    :raises ValueError: there is none.
    """
    message = _text(_load(payload).get("message"))
    if not message:
        raise ValueError("NOTICE without a message")
    return message


def _is_number(value: object, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
