"""CONNECT: ask an HTTP proxy for a connection (RFC 9110, section 9.3.6), with user and password (Basic, RFC 7617)."""

from __future__ import annotations

import re
from base64 import b64encode

from rtunnel.errors import ProxyFailed

#: Most bytes of the answer's head, those of interim answers included.
MOST = 16 * 1024
#: Most characters of what the proxy says that an error quotes.
_MOST_QUOTED = 200

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: ([^\r\0]*))?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\0]*)")
_BARE_LF = re.compile(rb"(?<!\r)\n")
# What the head ends with, and how many bytes its end is away at least.
_ENDS = ((b"\r\n\r\n", 0), (b"\r\n\r", 1), (b"\r\n", 2), (b"\r", 3))


class Connect:
    """One handshake.

    :param host: name or IP address of the server; the proxy looks the name up.
    :param user: empty: none is sent. It has no colon.
    :ivar wants: how many bytes may be read next, so that none behind the answer is; 0: there is a connection.
    """

    def __init__(self, host: str, port: int, user: str = "", password: str = "") -> None:
        self._port = port
        self._has_user = bool(user)
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if user:
            lines.append(f"Proxy-Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}")
        self._request = "".join(f"{line}\r\n" for line in (*lines, "")).encode()
        self._head = bytearray()
        self._count = 0
        self.wants = 4

    def begin(self) -> bytes:
        """Return what is sent first."""
        return self._request

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the answer, and return what is sent then.

        :param data: at most :attr:`wants` bytes.
        :raises ProxyFailed: the proxy refuses, or does not speak HTTP.
        """
        if len(data) > self.wants:
            raise ProxyFailed("the proxy sends more than its answer")
        self._head += data
        self._count += len(data)
        if not b"HTTP/1.".startswith(self._head[:7]):
            raise ProxyFailed("the proxy does not speak HTTP; is it of another kind, such as socks5://?")
        if _BARE_LF.search(self._head, len(self._head) - len(data)):
            raise ProxyFailed("the proxy's answer is malformed: a line does not end with CRLF")
        self.wants = next((left for end, left in _ENDS if self._head.endswith(end)), 4)
        if self._count + self.wants > MOST:
            raise ProxyFailed(f"the proxy's answer is malformed: its head has more than {MOST // 1024} KiB")
        if not self.wants:
            self._answered(bytes(self._head[:-4]))
        return b""

    def _answered(self, head: bytes) -> None:
        line, *fields = head.split(b"\r\n")
        status = _STATUS.fullmatch(line)
        found = [_FIELD.fullmatch(field) for field in fields]
        if status is None or None in found:
            bad = line if status is None else fields[found.index(None)]
            raise ProxyFailed(f"the proxy's answer is malformed: '{_quoted(bad)}'")
        number = int(status[1])
        if number < 200 and number != 101:
            # An interim answer.
            self._head.clear()
            self.wants = 4
        elif number in (401, 407):  # tinyproxy answers 401 to a wrong password
            names = [
                _quoted(field[2]).split() for field in found if field and field[1].lower() == b"proxy-authenticate"
            ]
            raise ProxyFailed(self._why_unauthorized(number, [name[0] for name in names if name]))
        elif not 200 <= number < 300:
            what = f"the proxy refuses: {number} {_quoted(status[2] or b'')}".rstrip()
            advice = f"; does it allow CONNECT to port {self._port}?" if number in (403, 405) else ""
            raise ProxyFailed(what + advice)

    def _why_unauthorized(self, number: int, schemes: list[str]) -> str:
        if schemes and "basic" not in [scheme.lower() for scheme in schemes]:
            return f"the proxy wants {' or '.join(schemes)} ({number}), and only Basic is supported: user and password"
        if self._has_user:
            return f"the proxy does not accept this user and password ({number}); are they right in --via?"
        return f"the proxy wants a user and a password ({number}); write them in --via: http://USER:PASSWORD@HOST:PORT"


def _quoted(text: bytes) -> str:
    return text.decode("utf-8", "replace").strip()[:_MOST_QUOTED]
