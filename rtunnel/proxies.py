"""Proxies as operators write them: ``http://USER:PASSWORD@HOST:PORT`` or ``socks5://HOST:PORT``.

No error and no text of a :class:`Proxy` shows a user or a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Self
from urllib.parse import unquote

from rtunnel.addresses import DialAddress, host_and_port
from rtunnel.endpoint_strings import is_ipv4, join_description, suggestion
from rtunnel.errors import ConfigError

#: The usual ports, for remedies, by the kinds of proxies.
_PORTS = {"http": 3128, "socks5": 1080}
_FORMS = "write http://HOST:3128, http://USER:PASSWORD@HOST:3128 or socks5://HOST:1080"
#: The variables that name a proxy, the one that wins first, and those that name exceptions; as ``curl`` reads them.
_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")
#: RFC 1929 has one byte for a length.
_MOST_TEXT = 255


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    :ivar kind: ``http`` or ``socks5``.
    :ivar address: where it is.
    :ivar user: empty: none.
    """

    kind: str
    address: DialAddress
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL.

        :raises ConfigError: it is none of a proxy that can be used.
        """
        shown = re.sub(r"^([A-Za-z0-9+.-]*://)?.*@", r"\1...@", text, flags=re.DOTALL)
        if re.search(r"[\s\x00-\x1f\x7f]", text):
            raise ConfigError(
                f"'{shown}' has a space or a control character in it; in a password write %20 for a space"
            )
        scheme, separator, rest = text.partition("://")
        if not separator or not re.fullmatch(r"[A-Za-z0-9+.-]+", scheme):
            raise ConfigError(f"'{shown}' has no http:// or socks5:// in front; {_FORMS}")
        kind = {"socks5h": "socks5"}.get(scheme.lower(), scheme.lower())
        if kind == "https":
            raise ConfigError(
                f"'{shown}': TLS to the proxy itself is not supported; write http:// if it also takes that"
            )
        if kind not in _PORTS:
            raise ConfigError(f"'{shown}': '{scheme}' is no kind of proxy{suggestion(kind, _PORTS) or f'; {_FORMS}'}")
        login, at, place = rest.rpartition("@")
        place = place.removesuffix("/")
        if re.search("[/?#]", place):
            raise ConfigError(f"'{shown}' has a path, and a proxy has none; {_FORMS}")
        if re.fullmatch(r"(:[0-9]*)?", place):
            raise ConfigError(f"'{shown}' has no host; {_FORMS}")
        if re.fullmatch(r"[^:\[\]]+|\[[^\]]*\]", place):
            raise ConfigError(f"'{shown}' has no port; write {kind}://{place}:{_PORTS[kind]}, if it is the usual one")
        user, _, password = login.partition(":")
        if at:
            user, password = _decoded(user, kind), _decoded(password, kind)
            if not user:
                raise ConfigError(f"'{shown}' has no user before the @; {_FORMS}")
            if kind == "http" and ":" in user:
                raise ConfigError(f"'{shown}': a user with a colon cannot be sent to an HTTP proxy")
        host, port = host_and_port(place, _FORMS, _PORTS[kind], lowest=1)
        return cls(kind, DialAddress(place, join_description(["tcp", host, str(port)], {}), host, port), user, password)

    def __str__(self) -> str:
        return f"{self.kind}://{self.address}"


def _decoded(text: str, kind: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
        size = len(decoded.encode())
    except ValueError:
        raise ConfigError("the user or the password is not UTF-8") from None
    if re.search(r"[\x00-\x1f\x7f]", decoded):
        raise ConfigError("the user or the password has a control character in it")
    if kind == "socks5" and size > _MOST_TEXT:
        raise ConfigError(f"the user or the password has more than {_MOST_TEXT} bytes, which SOCKS 5 cannot send")
    return decoded


def proxy_of_environment(environ: Mapping[str, str], host: str) -> Proxy | None:
    """Return the proxy that the environment names for connections to *host*; None if there is none.

    :param environ: the process's environment.
    :raises ConfigError: it names one that cannot be used. The message names the variable.
    """
    name = next((each for each in _VARIABLES if environ.get(each, "").strip()), "")
    exceptions = next((environ[each] for each in _EXCEPTIONS if environ.get(each, "").strip()), "")
    if not name or _is_excepted(host, exceptions):
        return None
    written = environ[name].strip()
    try:
        return Proxy.parse(written if "://" in written else f"http://{written}")
    except ConfigError as error:
        raise ConfigError(f"environment variable {name}: {error}") from error


def _is_excepted(host: str, exceptions: str) -> bool:
    """Return whether ``NO_PROXY`` has a host: by its name, a domain that it is in, its address, a network, or ``*``."""
    host = host.lower().rstrip(".")
    for each in re.split(r"[\s,]+", exceptions.strip().lower()):
        if each == "*":
            return True
        name = each.strip("[]").strip(".")
        if name and (host == name or (host.endswith(f".{name}") and not is_ipv4(host))):
            return True
        try:
            if ip_address(host) in ip_network(each.strip("[]"), strict=False):
                return True
        except ValueError:
            pass  # not both are addresses
    return False
