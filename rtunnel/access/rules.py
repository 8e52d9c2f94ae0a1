"""The rules of a tunnel: who may come, how much, who else serves it, and what is done with requests (docs/wire.rst,
"Rules").

The client's file and INIT have them with the same keys::

    allow: [192.0.2.0/24, "2001:db8::/32"]      # networks and addresses
    deny: 192.0.2.7
    max-connections: 20                         # of one address at once
    max-connection-rate: 5                      # new ones of one address, a second
    bandwidth: 100Mbit                          # of all visitors together, in each direction
    visitor-bandwidth: 10Mbit                   # of one visitor
    quota: 500GB                                # a month, in both directions together
    group: web                                  # several clients serve this tunnel ...
    group-key: 4f7a...                          # ... those that know this ...
    balance: least-connections                  # ... and so they share its visitors
    max-requests: 10                            # of one address, a second
    auth: ["alice:$scrypt$ln=15,r=8,p=1$..."]   # what 'rtunnel passwd alice' prints
    request-headers: {X-From: outside, Cookie: null}
    response-headers: {Strict-Transport-Security: max-age=31536000, Server: null}
    redirect-https: true
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from rtunnel.access.amounts import amount, bandwidth
from rtunnel.access.passwords import check_hash, check_user
from rtunnel.coercions import boolean, integer, networks, pinpointed, shown, text
from rtunnel.config_file import keys_with_underscores
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError

Network = IPv4Network | IPv6Network
Headers = tuple[tuple[str, str | None], ...]

#: Most networks in ``allow``, and in ``deny``.
MOST_NETWORKS = 256
#: Most users of one tunnel.
MOST_USERS = 64
#: Most fields in ``request-headers``, and in ``response-headers``.
MOST_FIELDS = 32
#: The longest name of a field, and the longest value, in characters.
MOST_FIELD_NAME = 64
MOST_FIELD_VALUE = 1024
#: The longest rules of one tunnel, as JSON, in bytes.
MOST_BYTES = 16_000
#: How the members of a group share its visitors.
BALANCES = ("round-robin", "least-connections", "sticky")
#: Requests or connections a second.
FEWEST_REQUESTS = 0.001
MOST_REQUESTS = 1_000_000

# RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OF_REQUESTS = ("max-requests", "auth", "request-headers", "response-headers", "redirect-https")
_OF_GROUPS = ("group", "group-key", "balance")
# Fields of one connection, and those that say where a message ends (RFC 9110, section 7.6.1; RFC 9112, section 6).
_OF_CONNECTION = frozenset(
    ("connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)


class _Networks:
    """Networks in which an address is found by one look-up for each length of prefix that there is."""

    __slots__ = ("_prefixes",)

    def __init__(self, networks: Iterable[Network]) -> None:
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        for each in networks:
            shift = each.max_prefixlen - each.prefixlen
            self._prefixes.setdefault((each.version, shift), set()).add(int(each.network_address) >> shift)

    def has(self, version: int, number: int) -> bool:
        return any(
            number >> shift in found for (of_version, shift), found in self._prefixes.items() if of_version == version
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator of a client wants.

    :ivar allow: networks of visitors that may come; empty: all.
    :ivar deny: networks of visitors that may not, even if they are in *allow*.
    :ivar connections: connections that one address (of IPv6, one /64) may have at once; None: as many as it likes.
    :ivar connection_rate: new connections a second of one address, for long; for UDP, flows; None: as many as it likes.
    :ivar bandwidth: bits a second of all visitors together, in each direction; None: as many as there are.
    :ivar visitor_bandwidth: the same of one visitor.
    :ivar quota: bytes of all visitors in a calendar month (UTC), both directions together; None: as many as there are.
    :ivar group: the name of the group of clients that serve the tunnel; empty: one client does.
    :ivar group_key: what the members of the group must know.
    :ivar balance: how visitors are spread over the members: one of :data:`BALANCES`.
    :ivar requests: requests a second that one address may send for long; None: as many as it likes.
    :ivar users: for HTTP, who may come with a password: names, and the hashes of their passwords; see
        :mod:`rtunnel.access.passwords`. Empty: everybody may come without.
    :ivar request_headers: for HTTP, fields that requests get in place of theirs; None: they get none.
    :ivar response_headers: the same for responses.
    :ivar redirect_https: for HTTP, whether visitors are sent to ``https:`` instead.
    """

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    connections: int | None = None
    connection_rate: float | None = None
    bandwidth: int | None = None
    visitor_bandwidth: int | None = None
    quota: int | None = None
    group: str = ""
    group_key: str = field(default="", repr=False)
    balance: str = "round-robin"
    requests: float | None = None
    users: tuple[tuple[str, str], ...] = ()
    request_headers: Headers = ()
    response_headers: Headers = ()
    redirect_https: bool = False
    _allowed: _Networks = field(init=False, repr=False, compare=False)
    _denied: _Networks = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_allowed", _Networks(self.allow))
        object.__setattr__(self, "_denied", _Networks(self.deny))

    def admits(self, address: str) -> bool:
        """Return whether a visitor may come.

        :param address: its IP address, without a port. What is no IP address may come only if there are neither *allow*
            nor *deny*.
        """
        if not self.allow and not self.deny:
            return True
        try:
            found = ip_address(address)
        except ValueError:
            return False
        if found.version == 6 and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        version, number = found.version, int(found)
        return (not self.allow or self._allowed.has(version, number)) and not self._denied.has(version, number)


def read_rules(written: Mapping[str, object], protocol: str = "http", *, ends_tls: bool = False) -> Rules:
    """Read rules as the file has them, or as they came with INIT.

    :param protocol: the tunnel's. Rules that it cannot have are refused. Empty: they are for tunnels of all kinds.
    :param ends_tls: TLS of ``https`` ends where the rules are kept, so that requests are seen there.
    :raises ConfigError: something is wrong; the message names the key.
    """
    values = keys_with_underscores(dict(written))
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = name.replace("_", "-")
        if key not in _KEYS:
            raise ConfigError(f"unknown key '{key}'{suggestion(key, _KEYS)}", [key])
        attribute, coerce = _KEYS[key]
        try:
            if why := _why_not_for(key, protocol, ends_tls=ends_tls):
                raise ConfigError(why)
            found[attribute] = coerce(value)
        except ConfigError as error:
            raise pinpointed(error, coerce, value).within(f"key '{key}': ", key) from None
    rules = Rules(**found)
    for key in ("group-key", "balance"):
        if key.replace("-", "_") in values and not rules.group:
            raise ConfigError(f"key '{key}': has no effect without a group; add 'group: NAME'", [key])
    if rules.group and not rules.group_key:
        raise ConfigError(
            "key 'group': needs a group-key, or everybody could join; write what 'openssl rand -hex 16' prints",
            ["group"],
        )
    length = len(json.dumps(rules_as_json(rules)))
    if length > MOST_BYTES:
        raise ConfigError(
            f"the rules have {length:,} bytes, and {MOST_BYTES:,} is the most; write fewer or shorter ones"
        )
    return rules


def _why_not_for(key: str, protocol: str, *, ends_tls: bool) -> str:
    """Return why a tunnel of this protocol cannot have the rule *key*; empty if it can."""
    if key in _OF_REQUESTS and protocol == "https" and not ends_tls:
        return "is about requests, which the server does not see in https:; leave it out"
    if key in _OF_REQUESTS and protocol in ("tcp", "udp"):
        return "is about requests, which the server sees only in tunnels of 'publish: http:NAME=LOCAL'; leave it out"
    if key == "max-connection-rate" and protocol == "http":
        return "is about connections, and one carries many requests; write max-requests"
    if key in _OF_GROUPS and protocol == "udp":
        return "is not for UDP, whose ports one client serves; leave it out"
    return ""


def without_requests(rules: Rules) -> Rules:
    """Return those of *rules* that are not about requests: what a server can keep that does not see any."""
    return replace(rules, requests=None, users=(), request_headers=(), response_headers=(), redirect_https=False)


def rules_as_json(rules: Rules) -> dict[str, object]:
    """Return rules as INIT has them; those that say nothing are left out."""
    written: dict[str, object] = {
        "allow": [_shortest(each) for each in rules.allow],
        "deny": [_shortest(each) for each in rules.deny],
        "max-connections": rules.connections,
        "max-connection-rate": rules.connection_rate,
        "bandwidth": rules.bandwidth,
        "visitor-bandwidth": rules.visitor_bandwidth,
        "quota": rules.quota,
        "group": rules.group,
        "group-key": rules.group_key,
        "balance": rules.balance if rules.group else "",
        "max-requests": rules.requests,
        "auth": [f"{name}:{hashed}" for name, hashed in rules.users],
        "request-headers": dict(rules.request_headers),
        "response-headers": dict(rules.response_headers),
        "redirect-https": rules.redirect_https,
    }
    return {key: value for key, value in written.items() if value}


def _shortest(network: Network) -> str:
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


def _allowed_networks(value: object) -> tuple[Network, ...]:
    found = _networks(value)
    if not found:
        raise ConfigError("has no network; write one such as 192.0.2.0/24, or leave it out to let everybody come")
    return found


def _networks(value: object) -> tuple[Network, ...]:
    found = networks(value)
    if len(found) > MOST_NETWORKS:
        raise ConfigError(f"has {len(found):,} networks, and {MOST_NETWORKS} is the most; write larger ones")
    return tuple(dict.fromkeys(found))


def _a_second(value: object, what: str) -> float:
    match = None
    if not isinstance(value, bool) and isinstance(value, str | int | float):
        match = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,30})?|\.[0-9]{1,30}", str(value).strip())
    if match is None or not FEWEST_REQUESTS <= float(match[0]) <= MOST_REQUESTS:
        raise ConfigError(
            f"{shown(value)} is not a number of {what} a second; write one such as 10 or 0.5, "
            f"from {FEWEST_REQUESTS} to {MOST_REQUESTS}"
        )
    return float(match[0])


def _group(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise ConfigError(
            f"{shown(value)} is not the name of a group: up to 64 letters, digits, dots, dashes; write web"
        )
    return value


def _group_key(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{16,128}", value):
        raise ConfigError(
            "is not 16 to 128 characters of ASCII without spaces; write what 'openssl rand -hex 16' prints"
        )
    return value


def _balance(value: object) -> str:
    if value not in BALANCES:
        raise ConfigError(f"{shown(value)} is not a way to share visitors; write {', '.join(BALANCES)}")
    return str(value)


def _users(value: object) -> tuple[tuple[str, str], ...]:
    written = value if isinstance(value, list) else [value]
    if not written:
        raise ConfigError("has no user; write what 'rtunnel passwd USER' prints, or leave it out to let everybody come")
    if len(written) > MOST_USERS:
        raise ConfigError(f"has {len(written):,} users, and {MOST_USERS} is the most")
    users: dict[str, str] = {}
    for each in written:
        name, colon, hashed = text(each).partition(":")
        if not colon:
            raise ConfigError("is not USER:HASH; write what 'rtunnel passwd USER' prints")
        check_user(name)
        check_hash(hashed, name)
        if name in users:
            raise ConfigError(f"user '{name}' is there twice; keep one")
        users[name] = hashed
    return tuple(users.items())


def _fields(value: object, *, of_requests: bool) -> Headers:
    if not isinstance(value, dict):
        raise ConfigError(f"{shown(value)} is not a mapping; write lines such as 'X-Name: text', or 'X-Name: null'")
    if len(value) > MOST_FIELDS:
        raise ConfigError(f"has {len(value):,} fields, and {MOST_FIELDS} is the most")
    fields: list[tuple[str, str | None]] = []
    seen: set[str] = set()
    for name, written in value.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name) or len(name) > MOST_FIELD_NAME:
            raise ConfigError(
                f"{shown(name)} is not the name of a field; write one such as X-Name, of up to {MOST_FIELD_NAME} "
                "characters",
                [str(name)],
            )
        lower = name.lower()
        if lower in seen:
            raise ConfigError(f"'{name}' is there twice; keep one", [name])
        seen.add(lower)
        if lower in _OF_CONNECTION or lower.startswith("proxy-"):
            raise ConfigError(f"'{name}' belongs to the connection, and cannot be changed; leave it out", [name])
        if lower == "host" and (written is None or not of_requests):
            raise ConfigError(
                f"'{name}' can be set for requests, and not removed; write it in 'request-headers'", [name]
            )
        fields.append((name, None if written is None else _field_value(name, written)))
    return tuple(fields)


def _field_value(name: str, written: object) -> str:
    try:
        value = text(written)
    except ConfigError as error:
        raise ConfigError(f"'{name}': {error}; to remove the field, write null", [name]) from None
    if not re.fullmatch(r"[\t -~]*", value) or len(value) > MOST_FIELD_VALUE:
        raise ConfigError(
            f"'{name}': {shown(value)} is not the value of a field, which has up to {MOST_FIELD_VALUE:,} printable "
            "characters of ASCII",
            [name],
        )
    return value


_KEYS: Mapping[str, tuple[str, Callable[[object], object]]] = {
    "allow": ("allow", _allowed_networks),
    "deny": ("deny", _networks),
    "max-connections": ("connections", integer(1, 1_000_000)),
    "max-connection-rate": ("connection_rate", lambda value: _a_second(value, "connections")),
    "bandwidth": ("bandwidth", bandwidth),
    "visitor-bandwidth": ("visitor_bandwidth", bandwidth),
    "quota": ("quota", amount),
    "group": ("group", _group),
    "group-key": ("group_key", _group_key),
    "balance": ("balance", _balance),
    "max-requests": ("requests", lambda value: _a_second(value, "requests")),
    "auth": ("users", _users),
    "request-headers": ("request_headers", lambda value: _fields(value, of_requests=True)),
    "response-headers": ("response_headers", lambda value: _fields(value, of_requests=False)),
    "redirect-https": ("redirect_https", boolean),
}

#: The rules that the clients file can have too, where they hold for each tunnel of a client.
LIMITS = ("allow", "deny", "max-connections", "max-connection-rate", "max-requests")
#: The keys of rules, as settings have them.
KEYS = tuple(key.replace("-", "_") for key in _KEYS)
