"""Who may do what at the server: the clients file and the tokens.

The file is a mapping from names to rights::

    laptop:                     # the common name of a certificate
      ports: 8000-8010,9443     # or a list; without this key all that --allow-ports allows
      tunnels: 2
      streams: 100
      shared: false             # may it serve the shared public port; true without this key
    phone:
      token: 4f7a...            # how a link without certificate proves that it is this client
    "*": {ports: none}          # everybody else who is let in; without it nobody else is

A name without a mapping may do all that the server's options allow.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rtunnel.addresses import PortRanges
from rtunnel.coercions import boolean, integer, port_ranges, text
from rtunnel.config_file import keys_with_underscores, load_file
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError

#: The name that stands for everybody who has no entry.
EVERYBODY = "*"
_MANY = 1_000_000
_KEYS = ("ports", "tunnels", "streams", "shared", "token")
#: What HELLO has room for, and then some.
MAX_TOKEN = 1024
MIN_TOKEN = 8

_count = integer(0, _MANY)


@dataclass(frozen=True, slots=True)
class Rights:
    """What one client may do; None: as much as the server's options allow.

    :ivar ports: public ports that it may ask for.
    :ivar tunnels: tunnels that it may have at once, over all its links.
    :ivar streams: visitors that it may serve at once, over all its links.
    :ivar shared: whether it may serve the shared public port.
    """

    ports: PortRanges | None = None
    tunnels: int | None = None
    streams: int | None = None
    shared: bool = True


@dataclass(frozen=True, slots=True)
class Token:
    """A secret by which a client is known; only its digest is kept."""

    name: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Clients:
    """What a clients file says."""

    rights: Mapping[str, Rights]
    tokens: Sequence[Token]

    def rights_of(self, name: str) -> Rights | None:
        """What the client *name* may do; None: it is not let in."""
        found = self.rights.get(name) if name and name != EVERYBODY else None
        return found or self.rights.get(EVERYBODY)


#: Each process digests with a key of its own: how long a comparison takes tells nothing about a token.
_KEY = secrets.token_bytes(32)


def _digest(token: str) -> bytes:
    return hmac.digest(_KEY, token.encode("utf-8", "surrogatepass"), hashlib.sha256)


def find_token(tokens: Sequence[Token], token: str | None) -> Token | None:
    """Which of *tokens* a peer has sent. All are compared, each in constant time."""
    if token is None or len(token) > MAX_TOKEN:
        return None
    digest = _digest(token)
    found = None
    for each in tokens:
        if hmac.compare_digest(each.digest, digest):
            found = each
    return found


def check_token(value: object) -> str:
    """A secret that a client may send.

    :raises ConfigError: it is too short, too long, or not printable ASCII. The message does not repeat it.
    """
    token = text(value)
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError("is not a token: one word of printable ASCII is")
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN:
        raise ConfigError(
            f"is not a token: it has {len(token)} letters, and {MIN_TOKEN} to {MAX_TOKEN} are allowed; "
            "`openssl rand -hex 16` makes a good one"
        )
    return token


def parse_tokens(value: object) -> tuple[Token, ...]:
    """Tokens, each with its client's name before a colon or without: text with commas between, or a list.

    :raises ConfigError: one is wrong, or two are the same.
    """
    parts = value if isinstance(value, list) else [part for part in str(value).split(",") if part.strip()]
    found: list[Token] = []
    for number, part in enumerate(parts, 1):
        written = text(part)
        name, colon, token = written.rpartition(":")
        try:
            _add(found, Token(name.strip() if colon else "", _digest(check_token(token))))
        except ConfigError as error:
            raise ConfigError(f"entry {number} {error}") from None
    return tuple(found)


def _add(found: list[Token], token: Token) -> None:
    if any(hmac.compare_digest(token.digest, other.digest) for other in found):
        raise ConfigError("is a token that is there twice; each client needs one of its own")
    found.append(token)


def read_clients(path: Path) -> Clients:
    """Read a clients file.

    :raises ConfigError: it cannot be read, or something in it is wrong; the message says where.
    """
    rights: dict[str, Rights] = {}
    tokens: list[Token] = []
    for name, entry in _entries(path).items():
        where = f"{path}: '{name}'"
        values = keys_with_underscores(entry, where)
        for key in values:
            if key not in _KEYS:
                raise ConfigError(f"{where}: unknown key '{key}'{suggestion(key, _KEYS)}")
        key = ""
        try:
            if "token" in values:
                key = "token"
                if name == EVERYBODY:
                    raise ConfigError("cannot be everybody's; give each client its own")
                _add(tokens, Token(name, _digest(check_token(values[key]))))
            key = "ports"
            ports = port_ranges(values[key]) if key in values else None
            key = "tunnels"
            tunnels = _count(values[key]) if key in values else None
            key = "streams"
            streams = _count(values[key]) if key in values else None
            key = "shared"
            shared = boolean(values[key]) if key in values else True
        except ConfigError as error:
            raise ConfigError(f"{where}: key '{key}': {error}") from error
        rights[name] = Rights(ports, tunnels, streams, shared)
    return Clients(rights, tokens)


def _entries(path: Path) -> Mapping[str, object]:
    content = load_file(str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is not a mapping; write lines such as 'laptop: {{ports: 8000-8010}}'")
    for name in content:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{path}: {name!r} is not a name; put it in quotes")
    return content
