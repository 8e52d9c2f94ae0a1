"""Who may open a WebSocket to the signaling server: what its HTTP request must show."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from twisted.internet.interfaces import IAddress

from rtunnel.errors import ConfigError

#: Scheme, host and port of an origin (RFC 6454, section 6.2), here or in a rule, where ``*`` may stand.
_ORIGIN = re.compile(r"([a-z*][a-z0-9+.*-]*)://(\[[0-9a-f:.*]+\]|[^\s/:?#@\[\]]+)(?::(\d{1,5}|\*))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ANY = "*"


@dataclass(frozen=True, slots=True)
class _Rule:
    scheme: re.Pattern[str]
    host: re.Pattern[str]
    port: str | None


class Origins:
    """The origins whose pages may connect. Scheme, host and port are compared each for itself.

    :param rules: ``scheme://host`` or ``scheme://host:port``, where ``*`` stands for any characters of one part;
        ``*`` alone allows all.
    :raises ConfigError: one of them is none.
    """

    def __init__(self, rules: Iterable[str]) -> None:
        self._allows_all = False
        self._rules: list[_Rule] = []
        for rule in rules:
            if rule.strip() == _ANY:
                self._allows_all = True
                continue
            parts = _ORIGIN.fullmatch(rule.strip().lower().removesuffix("/"))
            if parts is None:
                raise ConfigError(f"'{rule}' is not an origin; write scheme and host, such as https://my-app.com, or *")
            scheme, host, port = parts.groups()
            self._rules.append(_Rule(_pattern(scheme), _pattern(host), port or _DEFAULT_PORTS.get(scheme)))

    def allow(self, origin: str | None) -> bool:
        """Whether who sends this ``Origin`` may connect; programs, other than browsers, send none."""
        if origin is None or self._allows_all:
            return True
        parts = _ORIGIN.fullmatch(origin.lower())
        if parts is None or _ANY in origin:
            return False
        scheme, host, port = parts.groups()
        default = _DEFAULT_PORTS.get(scheme)
        return any(
            rule.scheme.fullmatch(scheme)
            and rule.host.fullmatch(host)
            and (rule.port == _ANY or (port or default) == (rule.port or default))
            for rule in self._rules
        )


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split(_ANY))))


class Tokens:
    """The Bearer tokens (RFC 6750) of which one must be shown; without any, nothing is asked for."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = [token.encode("utf-8") for token in tokens]

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def allow(self, authorization: str | None) -> bool:
        """Whether this ``Authorization`` header will do.

        :param authorization: decoded as ISO 8859-1; None: there is none.
        """
        if not self._tokens:
            return True
        scheme, _, shown = (authorization or "").partition(" ")
        candidate = shown.strip().encode("latin-1", "replace")
        # All are compared, each in constant time: how long it takes tells nothing about any of them.
        matches = [hmac.compare_digest(candidate, token) for token in self._tokens]
        return scheme.lower() == "bearer" and any(matches)


def neighbourhood(address: IAddress | None) -> str:
    """What counts as one address for the limit of connections: an IPv4 address, or the /64 of an IPv6 address.

    :returns: empty where there is no IP address.
    """
    text = getattr(address, "host", None)
    if not isinstance(text, str):
        return ""
    host = ip_address(text.partition("%")[0])
    mapped = getattr(host, "ipv4_mapped", None)
    if host.version == 6 and mapped is None:
        return str(IPv6Address(int(host) >> 64 << 64))
    return str(mapped or host)
