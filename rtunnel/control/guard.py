"""Who may read the status over TCP.

Without a token or certificates, everybody who reaches the port: so it is on loopback then. But a web page that somebody
on this machine looks at reaches loopback too, by a name of its own that leads to 127.0.0.1. So requests must name this
machine by an address or as localhost then. With TLS they need not: our certificate is not for the name of that page.
"""

from __future__ import annotations

from base64 import b64decode
from hmac import compare_digest
from ipaddress import ip_address

#: What the answer to a request without the token asks for.
CHALLENGE = 'Basic realm="rtunnel status", charset="UTF-8"'


class Guard:
    """Looks at requests.

    :param token: what whoever reads must know; None: nothing.
    :param is_secure: whether there is TLS.
    """

    def __init__(self, token: str | None, *, is_secure: bool = False) -> None:
        self._is_secure = is_secure
        self._token = token.encode() if token is not None else None

    def why_not(self, host: bytes | None, authorization: bytes | None) -> tuple[int, str]:
        """Return status and reason of the refusal of a request; 0: it may be answered.

        :param host: its field Host.
        :param authorization: its field Authorization: ``Bearer TOKEN``, or ``Basic`` with the token as the password.
        """
        if self._token is not None:
            if not compare_digest(_shown(authorization or b""), self._token):
                return 401, "give the token (--status-token) as a bearer token, or as the password of any user"
            return 0, ""
        if not self._is_secure and not _is_this_machine(host or b""):
            return 421, "ask for localhost or an IP address, or give the service a token (--status-token)"
        return 0, ""


def _shown(authorization: bytes) -> bytes:
    scheme, _, value = authorization.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return b64decode(value.strip(), validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""


def _is_this_machine(host: bytes) -> bool:
    name = host.decode("latin-1").lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name in ("localhost", ""):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
