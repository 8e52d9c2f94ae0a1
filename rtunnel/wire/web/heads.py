"""The heads of HTTP/1.1 messages (RFC 9112): what came, and what is sent on in its place.

What is sent on is written anew from what was understood, with its framing. So the two ends of a connection cannot take
the same bytes for different messages (request smuggling, RFC 9112, section 11.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

#: The longest head that is accepted, in bytes, and the most fields of it.
MAX_HEAD = 64 * 1024
MAX_FIELDS = 200

#: Fields that are for one connection only (RFC 9110, section 7.6.1), or are written anew.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade content-length".split()
)
#: Fields in which proxies tell whose request it is. What a stranger writes there is dropped.
FORWARDED = frozenset(
    b"forwarded x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port x-real-ip".split()
)

_AUTHORITY = re.compile(rb"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,64}\])(?::([0-9]{0,5}))?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_TARGET = re.compile(rb"[!-~]+")

#: A field: its name in lower case, as it came, and its value.
Field = tuple[bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a message is refused. Nothing comes after it.

    :ivar status: for the answer.
    :ivar why: for the log and the page.
    """

    status: int
    why: str


@dataclass(slots=True, eq=False)
class RequestHead:
    """A request.

    :ivar target: the request target in origin form, or ``*``.
    :ivar is_old: it is HTTP/1.0.
    :ivar authority: host and port as they came; empty only in HTTP/1.0.
    :ivar host: the host name alone, in lower case.
    :ivar fields: the other fields, without those for one connection only.
    :ivar forwarded: the fields of :data:`FORWARDED`, by name.
    :ivar length: of the body, if that is known; 0: an empty one; None: there is none, or it comes in chunks.
    :ivar is_chunked: the body comes in chunks.
    :ivar keeps_alive: the visitor will send more requests.
    :ivar upgrade: the protocol that the visitor wants to change to, if any.
    :ivar trailers: the visitor takes trailers (RFC 9110, section 10.1.4).
    :ivar authorization: the field of this name.
    """

    method: bytes
    target: bytes
    is_old: bool = False
    authority: bytes = b""
    host: str = ""
    fields: list[Field] = field(default_factory=list)
    forwarded: dict[bytes, bytes] = field(default_factory=dict)
    length: int | None = None
    is_chunked: bool = False
    keeps_alive: bool = True
    upgrade: bytes = b""
    authorization: bytes | None = None

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.is_chunked or bool(self.length)

    @property
    def path(self) -> str:
        """The path by which the request is routed; see :func:`route_path`."""
        return route_path(self.target)


@dataclass(slots=True, eq=False)
class ResponseHead:
    """A response.

    :ivar fields: the fields, without those for one connection only.
    :ivar length: of the body, as the field Content-Length says; None: there is no such field.
    :ivar is_chunked: the body comes in chunks.
    :ivar has_no_body: whatever the fields say.
    :ivar keeps_alive: the service will answer more requests.
    :ivar upgrade: the protocol that it changes to, if any.
    """

    status: int
    reason: bytes
    fields: list[Field] = field(default_factory=list)
    length: int | None = None
    is_chunked: bool = False
    has_no_body: bool = False
    keeps_alive: bool = True
    upgrade: bytes = b""

    @property
    def is_final(self) -> bool:
        """Whether it is the answer, and not only a note on the way to it (RFC 9110, section 15.2)."""
        return self.status >= 200 or self.status == 101


class BadHead(ValueError):
    """A head cannot be accepted.

    :ivar problem: why.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.problem = Problem(status, why)


def read_request(method: bytes, target: bytes, version: str, fields: Sequence[tuple[bytes, bytes]]) -> RequestHead:
    """Make sense of a request whose syntax is right.

    :raises BadHead: it is refused.
    """
    if version not in ("1.1", "1.0"):
        raise BadHead(505, "only HTTP/1.1 and HTTP/1.0 are understood here")
    if method == b"CONNECT" or not _TARGET.fullmatch(target):
        raise BadHead(400, "the request has no target that this server could serve")
    head = RequestHead(method, target, version == "1.0")
    hosts: list[bytes] = []
    options = b""
    coding = upgrade = None
    for name, value in fields:
        key = name.lower()
        if key == b"host":
            hosts.append(value.strip())
        elif key in HOP_BY_HOP:
            if key == b"connection":
                options += b"," + value.lower()
            elif key == b"content-length":
                head.length = int(value)
            elif key == b"transfer-encoding":
                coding = value
            elif key == b"upgrade":
                upgrade = value
            elif key == b"te" and b"trailers" in value.lower():
                head.fields.append((key, name, b"trailers"))
        elif key in FORWARDED:
            head.forwarded[key] = head.forwarded[key] + b", " + value if key in head.forwarded else value
        else:
            if key == b"authorization":
                head.authorization = value
            head.fields.append((key, name, value))
    if absolute := _ABSOLUTE.fullmatch(target):
        # The name in the target counts (RFC 9112, section 3.2.2).
        hosts = hosts if len(hosts) > 1 else [absolute[1]]
        head.target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    elif not target.startswith(b"/") and not (target == b"*" and method == b"OPTIONS"):
        raise BadHead(400, "the request has no target that this server could serve")
    _read_host(head, hosts)
    if coding is not None:
        if head.is_old or coding.strip().lower() != b"chunked":
            raise BadHead(400 if head.is_old else 501, "the body has a transfer coding that is not understood here")
        head.is_chunked = True
    _read_options(head, options, upgrade)
    return head


def _read_host(head: RequestHead, hosts: list[bytes]) -> None:
    if not hosts and head.is_old:
        return
    found = _AUTHORITY.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if found is None:
        raise BadHead(400, "the request does not say for which host name it is")
    head.authority = hosts[0]
    head.host = found[1].decode("ascii").lower()


def _read_options(head: RequestHead, options: bytes, upgrade: bytes | None) -> None:
    """Read the options of the field Connection, in lower case with commas between them."""
    head.keeps_alive = not head.is_old
    if not options:
        return
    words = {each.strip() for each in options.split(b",")}
    head.keeps_alive = b"keep-alive" in words if head.is_old else b"close" not in words
    if upgrade is not None and b"upgrade" in words and not head.is_old:
        head.upgrade = upgrade.strip()
    words -= {b"", b"close", b"keep-alive", b"upgrade"}
    if words:
        head.fields = [each for each in head.fields if each[0] not in words]


def read_response(status: int, reason: bytes, fields: Sequence[tuple[bytes, bytes]]) -> ResponseHead:
    """Make sense of a response whose syntax is right.

    :raises BadHead: it is refused.
    """
    head = ResponseHead(status, reason)
    named: set[bytes] = set()
    for name, value in fields:
        key = name.lower()
        if key not in HOP_BY_HOP:
            head.fields.append((key, name, value))
        elif key == b"content-length":
            head.length = int(value)
        elif key == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise BadHead(502, "the service answers with a transfer coding that is not understood here")
            head.is_chunked = True
        elif key == b"upgrade":
            head.upgrade = value
        elif key == b"connection":
            named |= {each.strip() for each in value.lower().split(b",")} - {b"close", b"keep-alive", b"upgrade", b""}
    if named:
        head.fields = [each for each in head.fields if each[0] not in named]
    return head


def route_path(target: bytes) -> str:
    """Return the path of a request target by which it is routed: decoded, without query and dot segments.

    Services resolve ``/api/../admin`` and ``/%61pi`` too, so what a path begins with is decided on what they will see.
    """
    raw = target.split(b"?", 1)[0].split(b"#", 1)[0]
    if b"%" in raw:
        raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), raw)
    if b"/." not in raw and b"//" not in raw:
        return raw.decode("latin-1")
    kept: list[bytes] = []
    segments = raw.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b".", b""):
            kept.append(segment)
    is_folder = bool(segments) and segments[-1] in (b"", b".", b"..")
    return (b"/" + b"/".join(kept) + (b"/" if is_folder and kept else b"")).decode("latin-1")


# What is sent on


def _write_fields(fields: Iterable[Field]) -> bytes:
    return b"".join([b"%b: %b\r\n" % (name, value) for _, name, value in fields])


def changed(fields: Sequence[Field], changes: Sequence[tuple[bytes, bytes | None]]) -> Sequence[Field]:
    """Return *fields* with those replaced that *changes* names, by the values given there or, for None, by nothing."""
    if not changes:
        return fields
    names = {name.lower() for name, _ in changes}
    kept = [each for each in fields if each[0] not in names]
    return kept + [(name.lower(), name, value) for name, value in changes if value is not None]


def write_request(head: RequestHead, fields: Sequence[Field], forwarded: bytes) -> bytes:
    """Return a request's head for the service.

    :param fields: its fields, perhaps changed.
    :param forwarded: lines that tell whose request it is.
    """
    if head.is_chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    elif head.length is not None:
        framing = b"Content-Length: %d\r\n" % head.length
    else:
        framing = b""
    if head.upgrade:
        framing += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b%b\r\n" % (
        head.method,
        head.target,
        head.authority,
        _write_fields(fields),
        forwarded,
        framing,
    )


def write_response(head: ResponseHead, fields: Sequence[Field], *, is_old: bool, keeps_alive: bool) -> bytes:
    """Return a response's head for the visitor.

    :param fields: its fields, perhaps changed.
    :param is_old: the visitor has sent HTTP/1.0.
    :param keeps_alive: whether the connection stays for more requests.
    """
    if head.status == 101:
        framing = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
    else:
        if head.length is not None and not head.is_chunked:
            framing = b"Content-Length: %d\r\n" % head.length
        elif head.has_no_body or is_old:
            framing = b""
        else:
            framing = b"Transfer-Encoding: chunked\r\n"
        if not keeps_alive:
            framing += b"Connection: close\r\n"
        elif is_old:
            framing += b"Connection: keep-alive\r\n"
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (head.status, head.reason, _write_fields(fields), framing)


def write_chunk(data: bytes) -> bytes:
    """Return *data*, which is not empty, as a chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def phrase(status: int) -> str:
    """Return the reason phrase of *status*."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
