"""INIT: what a client asks the server to publish (docs/wire.rst, "INIT").

    8080:127.0.0.1:80                            a TCP port; 0: the shared port
    udp/53:127.0.0.1:53                          a UDP port
    http/app.example.org/api:127.0.0.1:3000      a host name, and what paths begin with
    https/*.dev.example.org:127.0.0.1:8443

A second line is a JSON object: the rules of the tunnel, which may be secret. Without rules there is none. Its key
``only-check`` is no rule: with it the client asks whether it would get the tunnel. Nor is ``on-behalf``: with it a node
of a cluster says whose tunnel it passes on.
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
_ON_BEHALF = "on-behalf"
#: The longest texts in it, in characters.
_MOST_BEHALF = 300
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_.-]{1,253}")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=@%/-]{0,1000})?")


@dataclass(frozen=True, slots=True)
class Behalf:
    """Whose tunnel a node passes on.

    :ivar owner: who holds the place, under a name that is the same on all nodes.
    :ivar client: the client's name, to which operators give rights; empty if unknown.
    :ivar number: the fencing number of the claim by which it holds the place; 0: there is none.
    :ivar link: by which its link is known at all nodes, so that another node knows where it is; empty: it cannot move.
    """

    owner: str
    client: str = ""
    number: int = 0
    link: str = ""


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
    :ivar behalf: whose tunnel it is, if its sender is another node of the cluster; None: the sender's own.
    """

    port: int
    local: str
    protocol: str = "tcp"
    host: str = ""
    path: str = ""
    rules: Mapping[str, object] = field(default_factory=dict, repr=False)
    only_check: bool = False
    behalf: Behalf | None = None

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
    if request.behalf is not None:
        behalf = request.behalf
        second[_ON_BEHALF] = {
            "owner": behalf.owner,
            "client": behalf.client,
            "number": behalf.number,
            "link": behalf.link,
        }
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
    local, rules, only_check, behalf = _split_rules(local)
    return TunnelRequest(int(port), clean_text(local), protocol, rules=rules, only_check=only_check, behalf=behalf)


def _decode_named(protocol: str, name: str, local: str) -> TunnelRequest:
    host, slash, path = name.partition("/")
    path = (slash + path).rstrip("/")
    if not _HOST.fullmatch(host) or not _PATH.fullmatch(path) or (path and protocol == "https"):
        raise ValueError(f"INIT says {clean_text(name)!r} where a host name belongs")
    local, rules, only_check, behalf = _split_rules(local)
    return TunnelRequest(0, clean_text(local), protocol, host, path, rules, only_check, behalf)


def _split_rules(local: str) -> tuple[str, dict[str, object], bool, Behalf | None]:
    """Return the local address, the rules behind it, whether the client only asks, and on whose behalf."""
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
    behalf = _read_behalf(rules.pop(_ON_BEHALF)) if _ON_BEHALF in rules else None
    return local, rules, only_check, behalf


def _read_behalf(value: object) -> Behalf:
    fields = value if isinstance(value, dict) else {}
    owner, client, number = fields.get("owner"), fields.get("client", ""), fields.get("number", 0)
    link = fields.get("link", "")
    are_texts = all(isinstance(each, str) and len(each) <= _MOST_BEHALF for each in (owner, client, link))
    is_number = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**62
    if not are_texts or not owner or not is_number:
        raise ValueError(f"INIT has something else than an owner in {_ON_BEHALF!r}")
    return Behalf(str(owner), str(client), number, str(link))
