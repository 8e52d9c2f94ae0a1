"""INIT: what a client asks the server to publish (docs/wire.rst, "INIT").

    8080:127.0.0.1:80                            a TCP port; 0: the shared port
    udp/53:127.0.0.1:53                          a UDP port
    http/app.example.org/api:127.0.0.1:3000      a host name, and what paths begin with
    https/*.dev.example.org:127.0.0.1:8443

A second line is a JSON object: the rules of the tunnel, which may be secret. Without rules there is none. Its key
``only-check`` is no rule: with it the client asks whether it would get the tunnel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rtunnel.wire.messages import clean_text

#: Protocols that are routed by host name.
NAMED = ("http", "https")
#: The longest rules that are accepted, in bytes.
MAX_RULES = 16384
#: The rules that a server knows for host names without the capability ``rules``.
RULES_OF_NAMES = frozenset(
    (
        *("allow", "deny", "max-connections", "max-requests", "auth"),
        *("request-headers", "response-headers", "redirect-https"),
    )
)

_ONLY_CHECK = "only-check"
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_.-]{1,253}")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=@%/-]{0,1000})?")


@dataclass(frozen=True, slots=True)
class TunnelRequest:
    """INIT: the client asks for a tunnel.

    :ivar port: the public port, 0 to 65535; 0 is the shared public port, which only TCP has, or stands for a host name.
    :ivar local: the address of the client's local service, for logs.
    :ivar protocol: ``tcp``, ``udp``, ``http`` or ``https``.
    :ivar host: the host name of ``http`` and ``https``; may begin with ``*.``.
    :ivar path: for ``http``, what paths begin with, such as ``/api``; empty: all paths.
    :ivar rules: what the client wants done with requests and visitors, as JSON has it.
    :ivar only_check: whether the client only wants to know whether it would get the tunnel.
    """

    port: int
    local: str
    protocol: str = "tcp"
    host: str = ""
    path: str = ""
    rules: Mapping[str, object] = field(default_factory=dict, repr=False)
    only_check: bool = False

    @property
    def needs_rules(self) -> bool:
        """Whether it is for links only on which the capability ``rules`` applies."""
        return bool(self.rules) and (self.protocol not in NAMED or not RULES_OF_NAMES.issuperset(self.rules))


def encode_init(request: TunnelRequest) -> bytes:
    """Return ``<what>:<local address>`` in ASCII, and the rules behind it. Other characters become ``?``: the address
    is for logs.
    """
    if request.protocol in NAMED:
        what = f"{request.protocol}/{request.host}{request.path}"
    else:
        what = f"{'udp/' if request.protocol == 'udp' else ''}{request.port}"
    second = dict(request.rules) | ({_ONLY_CHECK: True} if request.only_check else {})
    line = f"\n{json.dumps(second, separators=(',', ':'))}" if second else ""
    local = request.local.replace("\n", "?")
    return f"{what}:{local}{line}".encode("ascii", "replace")


def decode_init(payload: bytes) -> TunnelRequest:
    """Decode INIT.

    :raises ValueError: there is no port number from 0 to 65535 (for UDP from 1) or host name, no colon after it, or
        something else than rules in the second line.
    """
    asked, colon, local = payload.decode("ascii", "replace").partition(":")
    protocol, slash, name = asked.partition("/")
    if colon and slash and protocol in NAMED:
        return _decode_named(protocol, name, local)
    protocol, lowest = ("udp", 1) if asked.startswith("udp/") else ("tcp", 0)
    port = asked.removeprefix("udp/")
    is_number = port.isascii() and port.isdigit() and len(port) <= 5
    if not colon or not is_number or not lowest <= int(port) <= 65535:
        raise ValueError(f"INIT says {clean_text(asked)!r} where a port from {lowest} to 65535 and a colon belong")
    local, rules, only_check = _split_rules(local)
    return TunnelRequest(int(port), clean_text(local), protocol, rules=rules, only_check=only_check)


def _decode_named(protocol: str, name: str, local: str) -> TunnelRequest:
    host, slash, path = name.partition("/")
    path = (slash + path).rstrip("/")
    if not _HOST.fullmatch(host) or not _PATH.fullmatch(path) or (path and protocol == "https"):
        raise ValueError(f"INIT says {clean_text(name)!r} where a host name belongs")
    local, rules, only_check = _split_rules(local)
    return TunnelRequest(0, clean_text(local), protocol, host, path, rules, only_check)


def _split_rules(local: str) -> tuple[str, dict[str, object], bool]:
    """Return the local address, the rules behind it, and whether the client only asks."""
    local, newline, text = local.partition("\n")
    rules: object = {}
    if newline:
        try:
            rules = json.loads(text) if len(text) <= MAX_RULES else None
        except (ValueError, RecursionError):
            rules = None
    if not isinstance(rules, dict):
        raise ValueError("INIT has something else than rules in its second line")
    only_check = rules.pop(_ONLY_CHECK, False)
    if not isinstance(only_check, bool):
        raise ValueError(f"INIT has something else than true in {_ONLY_CHECK!r}")
    return local, rules, only_check
