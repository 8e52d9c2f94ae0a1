"""Tokens: secrets with which a peer proves that it may connect, and in the reverse tunnel also who it is.

Only digests are kept, keyed with a random key for each process, and every comparison looks at all tokens. So its
duration reveals nothing about any of them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rtunnel.coercions import text
from rtunnel.errors import ConfigError

#: The longest token, in characters; HELLO has room for more.
MAX_TOKEN = 1024
MIN_TOKEN = 8

_KEY = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Token:
    """A token, of which only the digest is kept.

    :ivar name: the client that it belongs to; empty if any client may use it.
    """

    name: str
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, name: str, token: str) -> Token:
        """Make a :class:`Token` from its text."""
        return cls(name, _digest(token))


def _digest(token: str) -> bytes:
    return hmac.digest(_KEY, token.encode("utf-8", "surrogatepass"), hashlib.sha256)


def find_token(tokens: Iterable[Token], token: str | None) -> Token | None:
    """Return the one of *tokens* that a peer has sent, or None. Takes constant time."""
    if token is None or len(token) > MAX_TOKEN:
        return None
    digest = _digest(token)
    found = None
    for each in tokens:
        if hmac.compare_digest(each.digest, digest):
            found = each
    return found


def token_word(value: object) -> str:
    """Return *value* if it may be a token: one word that fits into a header.

    :raises ConfigError: it is not. The message does not repeat it.
    """
    word = text(value)
    if not word.isascii() or not word.isprintable() or " " in word:
        raise ConfigError("is not a token, which is one word of printable ASCII")
    return word


def check_token(value: object) -> str:
    """Return *value* if it is a token that a client may send.

    :raises ConfigError: it is too short, too long, or not printable ASCII. The message does not repeat it.
    """
    token = token_word(value)
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN:
        raise ConfigError(
            f"is not a token: it has {len(token)} characters, and {MIN_TOKEN} to {MAX_TOKEN} are allowed; "
            "`openssl rand -hex 16` makes a good one"
        )
    return token


def parse_tokens(value: object) -> tuple[Token, ...]:
    """Return tokens from a list or a comma-separated text. Each may be preceded by a client's name and a colon.

    :raises ConfigError: one is wrong, or two are the same.
    """
    parts = value if isinstance(value, list) else [part for part in str(value).split(",") if part.strip()]
    found: dict[bytes, Token] = {}
    for number, part in enumerate(parts, 1):
        written = text(part)
        name, colon, token = written.rpartition(":")
        try:
            add_token(found, name.strip() if colon else "", token)
        except ConfigError as error:
            raise ConfigError(f"entry {number} {error}") from None
    return tuple(found.values())


def add_token(found: dict[bytes, Token], name: str, value: object) -> None:
    """Add the token of the client *name* to those that were found, which are there by their digests.

    :raises ConfigError: it is not a token, or is already in *found*.
    """
    token = Token.of(name, check_token(value))
    if token.digest in found:
        raise ConfigError("is a token that occurs twice; each client needs its own")
    found[token.digest] = token


class BearerTokens:
    """The Bearer tokens (RFC 6750) with which a WebSocket may be opened. If there are none, no token is needed."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [Token.of("", token) for token in tokens]

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def allow(self, authorization: str | None) -> bool:
        """Return whether this ``Authorization`` header lets its sender in.

        :param authorization: decoded as ISO 8859-1; None: there is no such header.
        """
        if not self._tokens:
            return True
        scheme, _, shown = (authorization or "").partition(" ")
        token = shown.strip().encode("latin-1", "replace").decode("utf-8", "surrogateescape")
        found = find_token(self._tokens, token)
        return scheme.lower() == "bearer" and found is not None
