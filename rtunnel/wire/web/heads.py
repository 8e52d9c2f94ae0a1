"""The heads of HTTP/1.1 messages (RFC 9112): what came, and what is sent on in its place.

What is sent on is written anew from what was understood, with its framing. So the two ends of a connection cannot take
the same bytes for different messages (request smuggling, RFC 9112, section 11.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

#: The longest head that is accepted, in bytes, and the most fields of it.
MAX_HEAD = 64 * 1024
MAX_FIELDS = 200

# Fields that are for one connection only (RFC 9110, section 7.6.1), or are written anew. Many services take an
# underscore for a hyphen (CGI, RFC 3875, section 4.1.18).
_HOP_BY_HOP = (
    rb"connection|content[-_]length|keep-alive|proxy-(?:connection|authenticate|authorization)"
    rb"|te|trailer|transfer[-_]encoding|upgrade"
)
# Fields in which proxies tell whose request it is. What a stranger writes there is dropped.
_FORWARDED = rb"forwarded|x[-_]forwarded[-_](?:for|proto|host|port)|x[-_]real[-_]ip"
_OF_REQUEST = re.compile(rb"\r\n(host|%b|%b):[ \t]*([^\r]*)" % (_HOP_BY_HOP, _FORWARDED), re.IGNORECASE)
_OF_RESPONSE = re.compile(rb"\r\n(%b):[ \t]*([^\r]*)" % _HOP_BY_HOP, re.IGNORECASE)
_AUTHORIZATION = re.compile(rb"\r\nauthorization:[ \t]*([^\r]*)", re.IGNORECASE)

_AUTHORITY = re.compile(rb"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,64}\])(?::([0-9]{0,5}))?")
_LONGEST = 262
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_TARGET = re.compile(rb"[!-~]+")
# A status line up to this, in bytes, is worth being remembered.
_SHORT = 64
_START = re.compile(rb"[1-9][0-9][0-9](?: [\t -~\x80-\xff]*)?")


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
    :ivar lines: the other fields, without those for one connection only; each as it came, with CRLF before it.
    :ivar forwarded: the fields in which proxies tell whose request it is, by name in lower case.
    :ivar length: of the body, if that is known; 0: an empty one; None: there is none, or it comes in chunks.
    :ivar is_chunked: the body comes in chunks.
    :ivar keeps_alive: the visitor will send more requests.
    :ivar upgrade: the protocol that the visitor wants to change to, if any.
    """

    method: bytes
    target: bytes
    is_old: bool = False
    authority: bytes = b""
    host: str = ""
    lines: bytes = b""
    forwarded: dict[bytes, bytes] | None = None
    length: int | None = None
    is_chunked: bool = False
    keeps_alive: bool = True
    upgrade: bytes = b""

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.is_chunked or bool(self.length)

    @property
    def path(self) -> str:
        """The path of the target, without the query."""
        return self.target.split(b"?", 1)[0].split(b"#", 1)[0].decode("ascii")

    @property
    def authorization(self) -> bytes | None:
        """The value of the field of this name; None: there is none, or there are several."""
        found = _AUTHORIZATION.findall(self.lines)
        return found[0].rstrip(b" \t") if len(found) == 1 else None


@dataclass(slots=True, eq=False)
class ResponseHead:
    """A response.

    :ivar start: the status line behind the version, such as ``200 OK``.
    :ivar lines: the fields, without those for one connection only; each as it came, with CRLF before it.
    :ivar length: of the body, as the field Content-Length says; None: there is no such field.
    :ivar is_chunked: the body comes in chunks.
    :ivar has_no_body: whatever the fields say.
    :ivar keeps_alive: the service will answer more requests.
    :ivar upgrade: the protocol that it changes to, if any.
    """

    status: int
    start: bytes
    lines: bytes = b""
    length: int | None = None
    is_chunked: bool = False
    has_no_body: bool = False
    keeps_alive: bool = True
    upgrade: bytes = b""

    @property
    def is_complete(self) -> bool:
        """Whether it is the whole answer."""
        return self.status >= 200 and (self.has_no_body or (self.length == 0 and not self.is_chunked))

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


def read_request(raw: bytes) -> RequestHead:
    """Make sense of the head of a request, up to the empty line, whose syntax is right.

    :raises BadHead: it is refused.
    """
    end = raw.index(b"\r\n")
    parts = raw[:end].split(b" ")
    if len(parts) != 3:
        raise BadHead(400, "the first line of the request is malformed")
    method, target, version = parts
    if version == b"HTTP/1.1":
        head = RequestHead(method, target)
    elif version == b"HTTP/1.0":
        head = RequestHead(method, target, is_old=True, keeps_alive=False)
    else:
        raise BadHead(505, "only HTTP/1.1 and HTTP/1.0 are understood here")
    if method == b"CONNECT" or not _TARGET.fullmatch(target):
        raise BadHead(400, "the request has no target that this server could serve")
    # What matters stands between what is passed on: a name, a value, and the lines behind it.
    parts = _OF_REQUEST.split(raw[end:-4])
    if len(parts) == 4 and parts[1].lower() == b"host" and target[0] == 47:
        # Nothing but Host, as often.
        head.lines = parts[0] + parts[3]
        _read_host(head, [parts[2].rstrip(b" \t")])
        return head
    head.lines = b"".join(parts[::3])
    hosts: list[bytes] = []
    options = b""
    coding = upgrade = None
    for index in range(1, len(parts), 3):
        key, value = parts[index].lower(), parts[index + 1]
        if key == b"host":
            hosts.append(value.rstrip(b" \t"))
        elif key == b"connection":
            options += b"," + value
        elif key == b"content-length":
            head.length = int(value)
        elif key == b"transfer-encoding":
            coding = value if coding is None else coding + b"," + value
        elif key == b"upgrade":
            upgrade = value
        elif key == b"te":
            if b"trailers" in value.lower():
                head.lines += b"\r\nTE: trailers"
        elif key in (b"keep-alive", b"trailer") or key.startswith(b"proxy-") or b"_" in key:
            pass
        else:
            forwarded = head.forwarded = head.forwarded or {}
            forwarded[key] = forwarded[key] + b", " + value if key in forwarded else value
    if target[0] != 47:  # a slash
        hosts = _read_target(head, hosts)
    if hosts or not head.is_old:
        _read_host(head, hosts)
    if coding is not None:
        if head.is_old or coding.strip().lower() != b"chunked":
            raise BadHead(400 if head.is_old else 501, "the body has a transfer coding that is not understood here")
        head.is_chunked = True
    if options:
        _read_options(head, options.lower(), upgrade)
    return head


def _read_target(head: RequestHead, hosts: list[bytes]) -> list[bytes]:
    """Read a target that is not in origin form. Return the host names that count."""
    if absolute := _ABSOLUTE.fullmatch(head.target):
        head.target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        # The name in the target counts (RFC 9112, section 3.2.2).
        return hosts if len(hosts) > 1 else [absolute[1]]
    if head.target != b"*" or head.method != b"OPTIONS":
        raise BadHead(400, "the request has no target that this server could serve")
    return hosts


def _read_host(head: RequestHead, hosts: list[bytes]) -> None:
    host = _name_in(hosts[0]) if len(hosts) == 1 and len(hosts[0]) <= _LONGEST else ""
    if not host:
        raise BadHead(400, "the request does not say for which host name it is")
    head.authority, head.host = hosts[0], host


# Few names have most of the requests.
@lru_cache(1024)
def _name_in(authority: bytes) -> str:
    """Return the name in an authority, in lower case; empty: it is none."""
    found = _AUTHORITY.fullmatch(authority)
    return "" if found is None else found[1].decode("ascii").lower()


def _read_options(head: RequestHead, options: bytes, upgrade: bytes | None) -> None:
    """Read the options of the field Connection, in lower case with commas before each value."""
    if options == b",keep-alive":
        head.keeps_alive = True
        return
    words = {each.strip() for each in options.split(b",")}
    head.keeps_alive = b"keep-alive" in words if head.is_old else b"close" not in words
    if upgrade is not None and b"upgrade" in words and not head.is_old:
        head.upgrade = upgrade.strip()
    head.lines = _without(head.lines, words)


def _without(lines: bytes, options: set[bytes]) -> bytes:
    """Return *lines* without the fields that the options of the field Connection name."""
    names = options - {b"", b"close", b"keep-alive", b"upgrade", b"te"}
    if not names:
        return lines
    # There may be thousands of names, so this is no pattern.
    return b"\r\n".join([line for line in lines.split(b"\r\n") if line.partition(b":")[0].lower() not in names])


@lru_cache(256)
def _status_in(start: bytes) -> int:
    """Return the status in a status line behind the version; 0: it is malformed."""
    return int(start[:3]) if _START.fullmatch(start) else 0


def read_response(raw: bytes) -> ResponseHead:
    """Make sense of the head of a response, up to the empty line, whose syntax is right.

    :raises BadHead: it is refused.
    """
    end = raw.index(b"\r\n")
    if not raw.startswith(b"HTTP/1."):
        raise BadHead(502, "the service answers with another protocol")
    start = raw[9:end]
    status = _status_in(start) if end <= _SHORT else _status_in.__wrapped__(start)
    if not status:
        raise BadHead(502, "the first line of the answer is malformed")
    parts = _OF_RESPONSE.split(raw[end:-4])
    head = ResponseHead(status, start, b"".join(parts[::3]))
    options = b""
    for index in range(1, len(parts), 3):
        key, value = parts[index].lower(), parts[index + 1]
        if key == b"content-length":
            head.length = int(value)
        elif key == b"connection":
            options += b"," + value.lower()
        elif key == b"transfer-encoding":
            if head.is_chunked or value.strip().lower() != b"chunked":
                raise BadHead(502, "the service answers with a transfer coding that is not understood here")
            head.is_chunked = True
        elif key == b"upgrade":
            head.upgrade = value
    is_old = raw[7] == 48  # a zero
    if not options or options == b",keep-alive":
        head.keeps_alive = bool(options) or not is_old
        return head
    words = {each.strip() for each in options.split(b",")}
    head.keeps_alive = b"keep-alive" in words if is_old else b"close" not in words
    head.lines = _without(head.lines, words)
    return head


# What is sent on


def changed(lines: bytes, changes: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """Return *lines* with those fields replaced that *changes* names, by the values there or, for None, by nothing."""
    if not changes:
        return lines
    names = b"|".join(re.escape(name) for name, _ in changes)
    kept = re.sub(rb"\r\n(?:%b):[^\r]*" % names, b"", lines, flags=re.IGNORECASE)
    return kept + b"".join([b"\r\n%b: %b" % (name, value) for name, value in changes if value is not None])


def write_request(head: RequestHead, lines: bytes) -> bytes:
    """Return a request's head for the service.

    :param lines: its fields, perhaps changed, with Host.
    """
    if head.is_chunked:
        framing = b"\r\nTransfer-Encoding: chunked"
    elif head.length is not None:
        framing = b"\r\nContent-Length: %d" % head.length
    else:
        framing = b""
    if head.upgrade:
        framing += b"\r\nConnection: Upgrade\r\nUpgrade: %b" % head.upgrade
    return b"%b %b HTTP/1.1%b%b\r\n\r\n" % (head.method, head.target, lines, framing)


def write_response(head: ResponseHead, lines: bytes, *, is_old: bool, keeps_alive: bool) -> bytes:
    """Return a response's head for the visitor.

    :param lines: its fields, perhaps changed.
    :param is_old: the visitor has sent HTTP/1.0.
    :param keeps_alive: whether the connection stays for more requests.
    """
    if head.status == 101:
        framing = b"\r\nConnection: Upgrade\r\nUpgrade: %b" % head.upgrade
    else:
        if head.status < 200 or head.status == 204:
            framing = b""  # not even Content-Length (RFC 9110, section 8.6)
        elif head.length is not None and not head.is_chunked:
            framing = b"\r\nContent-Length: %d" % head.length
        elif head.has_no_body or is_old:
            framing = b""
        else:
            framing = b"\r\nTransfer-Encoding: chunked"
        if not keeps_alive:
            framing += b"\r\nConnection: close"
        elif is_old:
            framing += b"\r\nConnection: keep-alive"
    return b"HTTP/1.1 %b%b%b\r\n\r\n" % (head.start, lines, framing)


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
