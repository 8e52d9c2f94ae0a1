"""Coercions for the WebRTC tunnel: URLs of servers, addresses for UDP, lists; see :mod:`rtunnel.coercions`.

A list is comma-separated text, a list of such texts (from a repeated flag), or a list in the file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from rtunnel.access.tokens import MAX_TOKEN, token_word
from rtunnel.access.web_admission import Origins
from rtunnel.addresses import host_and_port
from rtunnel.coercions import shown, text
from rtunnel.endpoint_strings import host_name, is_ipv4, is_ipv6
from rtunnel.errors import ConfigError
from rtunnel.rtc.settings import SignalUrl, TurnServer
from rtunnel.wire.webrtc.signaling import MAX_ID, is_id

STUN_PORT = 3478
STUN_TLS_PORT = 5349

_SIGNAL_EXAMPLE = "write ws://host:8080 or wss://host/path"
_STUN_EXAMPLE = "write stun:host:3478, or nothing for none"
_TURN_EXAMPLE = "write turn:host:3478?transport=udp"
_WEB_PORTS = {"ws": 80, "wss": 443}

ItemT = TypeVar("ItemT")


def list_of(coerce: Callable[[str], ItemT]) -> Callable[[object], tuple[ItemT, ...]]:
    """Return a coercion to a list of items. Duplicates count once."""

    def coerce_all(value: object) -> tuple[ItemT, ...]:
        parts = value if isinstance(value, list) else [value]
        # Empty text is an empty list, even as the only item of a list.
        texts = [text(part) for part in parts if part != ""]
        pieces = [piece.strip() for part in texts for piece in part.split(",") if piece.strip()]
        return tuple(dict.fromkeys(coerce(piece) for piece in pieces))

    return coerce_all


def host_id(value: object) -> str:
    """Read the ID of a host.

    :raises ConfigError: it is too long or not printable.
    """
    found = text(value)
    if not is_id(found):
        raise ConfigError(f"{shown(found)} is not an ID; write printable text of up to {MAX_ID} characters")
    return found


def bearer_token(value: object) -> str:
    """Read a token for the header ``Authorization: Bearer``.

    :raises ConfigError: it cannot be in a header. The message does not repeat the token.
    """
    token = token_word(value)
    if len(token) > MAX_TOKEN:
        raise ConfigError(f"is not a token: it has {len(token)} characters, and up to {MAX_TOKEN} are allowed")
    return token


def origin(value: str) -> str:
    """Check an origin as browsers send it, in which ``*`` matches any text.

    :raises ConfigError: no browser would send such an origin.
    """
    Origins([value])
    return value


def signal_url(value: object) -> SignalUrl:
    """Read ``ws://host:port/path`` or ``wss://host:port/path``.

    :raises ConfigError: it is something else.
    """
    url = _with_ascii_host(text(value))
    if "://" not in url:
        raise ConfigError(f"'{url}' has no scheme; write ws://{url} or wss://{url}")
    parts, port = _split_url(url)
    if parts.scheme in ("http", "https"):
        meant = parts.scheme.replace("http", "ws")
        raise ConfigError(f"'{url}' is a web URL; write {meant}://{url.partition('://')[2]}")
    if parts.scheme not in _WEB_PORTS:
        raise ConfigError(f"'{parts.scheme}' in '{url}' is neither ws nor wss; {_SIGNAL_EXAMPLE}")
    if parts.username is not None:
        raise ConfigError(f"a user name in the URL of {parts.hostname} has no effect; give a token with --token")
    if parts.fragment:
        raise ConfigError(f"'#{parts.fragment}' in '{url}' has no effect; leave it out")
    host = parts.hostname or ""
    if not is_ipv6(host):
        if not host:
            raise ConfigError(f"'{url}' has no host; {_SIGNAL_EXAMPLE}")
        host_name(host, url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return SignalUrl(url, parts.scheme == "wss", host, port or _WEB_PORTS[parts.scheme], path)


def signal_urls(value: object) -> SignalUrl:
    """Read one URL or several, each as :func:`signal_url` does. A comma in a URL does not end it.

    :raises ConfigError: one is something else.
    """
    parts = value if isinstance(value, list) else [value]
    texts = [each for part in parts for each in re.split(r",\s*(?=\w+://)", text(part)) if each]
    # Without any, the message is that about an empty one.
    first, *others = dict.fromkeys(signal_url(each) for each in texts or [""])
    return replace(first, others=tuple(others))


def show_signal_urls(url: SignalUrl) -> str:
    """Return the URLs as they may be written."""
    return ",".join(map(str, url.all))


def _with_ascii_host(url: str) -> str:
    parts = re.fullmatch(r"(\w+://)([^/?#:@]+)(.*)", url)
    if parts is None or parts[2].isascii():
        return url
    return parts[1] + host_name(parts[2], url) + parts[3]


def _split_url(url: str) -> tuple[SplitResult, int | None]:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f"{shown(url)} is not a URL: it has characters that must be escaped; {_SIGNAL_EXAMPLE}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"'{url}' is not a URL ({error}); {_SIGNAL_EXAMPLE}") from error
    if port == 0:
        raise ConfigError(f"port 0 in '{url}' is out of range; a port is 1 to 65535")
    return parts, port


def stun_server(value: object) -> tuple[str, int] | None:
    """Read ``stun:host:port``; empty text means no server.

    :raises ConfigError: it is something else.
    """
    if isinstance(value, str) and not value.strip():
        return None
    uri = text(value)
    if uri.lower().startswith("stuns:"):
        raise ConfigError(f"'{uri}': STUN over TLS is not supported; write stun:{uri.partition(':')[2]}")
    _scheme, host, port, transport = _ice_uri(uri, {"stun": STUN_PORT}, _STUN_EXAMPLE)
    if transport not in ("", "udp"):
        raise ConfigError(f"'{uri}': STUN works only over UDP; write {uri.partition('?')[0]}")
    return host, port


def turn_server(uri: str) -> TurnServer:
    """Read ``turn:host:port?transport=udp`` or ``tcp``, or ``turns:host:port`` for TLS.

    :raises ConfigError: it is something else.
    """
    scheme, host, port, transport = _ice_uri(uri, {"turn": STUN_PORT, "turns": STUN_TLS_PORT}, _TURN_EXAMPLE)
    tls = scheme == "turns"
    if tls and transport == "udp":
        raise ConfigError(f"'{uri}': TLS needs TCP; write {uri.partition('?')[0]}?transport=tcp")
    return TurnServer(host, port, "tcp" if tls else transport or "udp", tls)


def _ice_uri(uri: str, ports: dict[str, int], example: str) -> tuple[str, str, int, str]:
    """Read a URI of RFC 7064 or 7065.

    :param ports: the schemes that are allowed, with their default ports.
    :param example: the end of an error message.
    :returns: scheme, host, port, and transport, which is empty if none was given.
    """
    scheme, colon, rest = uri.partition(":")
    scheme = scheme.lower()
    if not colon or scheme not in ports:
        raise ConfigError(f"'{uri}' does not begin with {' or '.join(f'{name}:' for name in ports)}; {example}")
    if rest.startswith("//"):
        raise ConfigError(f"'{uri}' has slashes, which do not belong there; write {scheme}:{rest.lstrip('/')}")
    address, question, query = rest.partition("?")
    transport = re.fullmatch(r"transport=(udp|tcp)", query.lower())
    if question and transport is None:
        raise ConfigError(f"'?{query}' in '{uri}' is neither ?transport=udp nor ?transport=tcp")
    if address.endswith("]") or ":" not in address:
        address = f"{address}:{ports[scheme]}"
    host, port = host_and_port(address, example, ports[scheme], 1)
    if not host:
        raise ConfigError(f"'{uri}' has no host; {example}")
    return scheme, host, port, transport[1] if transport else ""


def ice_interface(value: str) -> str:
    """Check the name of an interface, an IP address, or a network.

    :raises ConfigError: it is none of these.
    """
    try:
        if "/" in value:
            return str(ipaddress.ip_network(value, strict=False))
        if re.fullmatch(r"[0-9.]+", value) or ":" in value:
            return str(ipaddress.ip_address(value))
    except ValueError:
        what = "a network such as 192.168.0.0/16" if "/" in value else "an IP address"
        raise ConfigError(f"'{value}' is not {what}") from None
    if not re.fullmatch(r"[\w.@-]{1,15}", value):
        raise ConfigError(f"'{value}' is not an interface; write eth0, 192.168.1.5 or 192.168.0.0/16")
    return value


def is_loopback(host: str) -> bool:
    """Return whether traffic to *host* stays on this machine."""
    if is_ipv4(host) or is_ipv6(host):
        return ipaddress.ip_address(host).is_loopback
    return host.rstrip(".").lower() == "localhost"
