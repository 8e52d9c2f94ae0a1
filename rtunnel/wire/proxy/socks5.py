"""SOCKS 5: ask a proxy for a connection (RFC 1928), with user and password (RFC 1929)."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from rtunnel.errors import ProxyFailed

#: Most bytes of a name, a user and a password.
MOST_TEXT = 255
_VERSION, _CONNECT, _NO_METHOD = 5, 1, 0xFF
_OPEN, _BY_PASSWORD = 0, 2
#: The version of the messages about user and password.
_PASSWORD_VERSION = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_REPLIES = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network is unreachable",
    4: "host is unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "it does not know CONNECT",
    8: "it does not know this kind of address",
}


class Socks5:
    """One handshake; see :class:`~rtunnel.wire.proxy.connect.Connect`.

    :param host: name or IP address of the server; the proxy looks the name up.
    :param user: empty: none is sent.
    :ivar wants: how many bytes may be read next; 0: there is a connection.
    :raises ValueError: a text has more than 255 bytes.
    """

    def __init__(self, host: str, port: int, user: str = "", password: str = "") -> None:
        self._login = bytes((_PASSWORD_VERSION,)) + _text(user) + _text(password) if user else b""
        self._request = bytes((_VERSION, _CONNECT, 0)) + _address(host) + port.to_bytes(2, "big")
        self._held = b""
        self._step: Callable[[bytes], bytes] = self._method_chosen
        self.wants = 2

    def begin(self) -> bytes:
        """Return what is sent first."""
        methods = (_OPEN, _BY_PASSWORD) if self._login else (_OPEN,)
        return bytes((_VERSION, len(methods), *methods))

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the answer, and return what is sent then.

        :param data: at most :attr:`wants` bytes.
        :raises ProxyFailed: the proxy refuses, or does not speak SOCKS 5.
        """
        if len(data) > self.wants:
            raise ProxyFailed("the proxy sends more than its answer")
        self._held += data
        self.wants -= len(data)
        if self.wants:
            return b""
        held, self._held = self._held, b""
        return self._step(held)

    def _method_chosen(self, held: bytes) -> bytes:
        version, method = held
        if version != _VERSION:
            raise ProxyFailed("the proxy does not speak SOCKS 5; is it of another kind, such as http://?")
        if method == _OPEN:
            return self._ask()
        if method == _BY_PASSWORD and self._login:
            self._step, self.wants = self._logged_in, 2
            return self._login
        if method != _NO_METHOD:
            raise ProxyFailed(f"the proxy's answer is malformed: it chooses the method {method}, which was not offered")
        if self._login:
            raise ProxyFailed("the proxy accepts neither user and password nor a client without; it wants another way")
        raise ProxyFailed(
            "the proxy wants a user and a password, or another proof; write them in --via: "
            "socks5://USER:PASSWORD@HOST:PORT"
        )

    def _logged_in(self, held: bytes) -> bytes:
        version, status = held
        if version != _PASSWORD_VERSION:
            raise ProxyFailed(f"the proxy's answer about user and password is malformed: {held!r}")
        if status:
            raise ProxyFailed("the proxy does not accept this user and password; are they right in --via?")
        return self._ask()

    def _ask(self) -> bytes:
        self._step, self.wants = self._replied, 4
        return self._request

    def _replied(self, held: bytes) -> bytes:
        version, reply, _, kind = held
        if version != _VERSION:
            raise ProxyFailed(f"the proxy's answer is malformed: {held!r}")
        if reply:
            raise ProxyFailed(f"the proxy refuses: {_REPLIES.get(reply, f'code {reply}')}")
        if kind == _NAME:
            self._step, self.wants = self._name_begun, 1
        elif kind in (_IPV4, _IPV6):
            self._step, self.wants = self._done, (4 if kind == _IPV4 else 16) + 2
        else:
            raise ProxyFailed(f"the proxy's answer is malformed: its address has the kind {kind}")
        return b""

    def _name_begun(self, held: bytes) -> bytes:
        self._step, self.wants = self._done, held[0] + 2
        return b""

    def _done(self, held: bytes) -> bytes:
        # The address from which the proxy connects is of no use.
        return b""


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) > MOST_TEXT:
        raise ValueError(f"more than {MOST_TEXT} bytes")
    return bytes((len(data),)) + data


def _address(host: str) -> bytes:
    try:
        address = ip_address(host)
    except ValueError:
        return bytes((_NAME,)) + _text(host)
    return bytes((_IPV4 if address.version == 4 else _IPV6,)) + address.packed
