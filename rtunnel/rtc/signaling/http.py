"""HTTP at the signaling server: what is answered before, or instead of, a WebSocket. Bytes in, bytes out."""

from __future__ import annotations

from enum import Enum, auto
from http import HTTPStatus

#: The longest head of a request, in bytes.
MAX_HEAD = 16384
#: Why a connection that begins with a TLS handshake is closed.
NO_TLS_HERE = (
    "it speaks TLS, which this server does not; write ws:// there, or give this server --tls-cert-file and "
    "--tls-key-file"
)

#: How a TLS ClientHello begins. It may or may not contain an empty line, so do not look for the end of an HTTP head.
_TLS_HANDSHAKE = b"\x16\x03"
_HEADERS = {401: "WWW-Authenticate: Bearer\r\n", 426: "Upgrade: websocket\r\n"}


class Step(Enum):
    """What to do about a request: wait for more, answer it, let Autobahn answer it, or refuse TLS."""

    WAIT = auto()
    ANSWER = auto()
    WEBSOCKET = auto()
    NO_TLS = auto()


def read_request(data: bytes) -> tuple[Step, bytes]:
    """Return what to do about what has come of a request, and the answer if there is one."""
    head, end, _ = data.partition(b"\r\n\r\n")
    if len(head) > MAX_HEAD:
        return Step.ANSWER, encode_answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    if data.startswith(_TLS_HANDSHAKE):
        # Read the whole hello: closing with unread bytes resets the connection, and the answer may be lost.
        is_whole = len(data) >= 5 + int.from_bytes(data[3:5], "big")
        return (Step.NO_TLS if is_whole else Step.WAIT), b""
    if not end:
        return Step.WAIT, b""
    words = head.partition(b"\r\n")[0].split(b" ")
    path = words[1].partition(b"?")[0] if len(words) == 3 else b"/"
    if path == b"/healthz":
        is_read = words[0] in (b"GET", b"HEAD")
        status = HTTPStatus.OK if is_read else HTTPStatus.METHOD_NOT_ALLOWED
        return Step.ANSWER, encode_answer(status, "ok", with_body=words[0] != b"HEAD")
    if path != b"/":
        return Step.ANSWER, encode_answer(HTTPStatus.NOT_FOUND)
    return Step.WEBSOCKET, b""


def encode_answer(status: HTTPStatus, body: str = "", *, with_body: bool = True) -> bytes:
    """Return an answer after which the connection is closed.

    :param body: the text, if *status* is OK; otherwise the text is what the status means.
    """
    page = (body if status == HTTPStatus.OK else status.phrase) + "\n"
    head = (
        f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(page)}\r\nConnection: close\r\n{_HEADERS.get(status, '')}\r\n"
    )
    return (head + page * with_body).encode("ascii")
