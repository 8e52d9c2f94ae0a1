"""What the ends of a sealed peer connection say on its control channel (docs/wire.rst).

    KEYS, then bytes of TLS                 ; binary messages, in each direction
    message = length json                   ; in TLS; the length is a u32, big-endian
    json    = bind / refusal                ; others are for later versions

A bind says which certificates its sender sees in DTLS, and shows that it has the root of all keys, and the second key
of its identity, if that has one. A refusal says why its sender ends the connection.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error
from dataclasses import dataclass
from struct import Struct

from rtunnel.errors import one_line
from rtunnel.wire.messages import clean_text

#: The label and the protocol of the control channel.
LABEL = "rtunnel-control"
PROTOCOL = "seal"
#: The longest message, in bytes, without its length.
MAX_MESSAGE = 16384
#: The longest proof of a second key, in bytes. That of SLH-DSA-SHA2-128s, which nobody makes yet, would have 7,890.
MAX_SECOND = 8192

_LENGTH = Struct("!I")
_DIGEST = 32


@dataclass(frozen=True, slots=True)
class Bind:
    """What an end sees. Each digest is a SHA-256, 32 bytes.

    :ivar host: of the certificate that the host has in DTLS.
    :ivar client: of the client's.
    :ivar keys: see :func:`rtunnel.wire.webrtc.sealed_keys.bind_key`.
    :ivar confirm: that the sender knows the code of an invitation; empty without one.
    :ivar second: that the sender has the second key that its certificate names, at most :data:`MAX_SECOND` bytes; see
        :mod:`rtunnel.tls.hedge.second`. Empty without one.
    """

    host: bytes
    client: bytes
    keys: bytes
    confirm: bytes = b""
    second: bytes = b""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an end does not go on.

    :ivar code: a :class:`rtunnel.errors.Code`, or one that is not known here.
    :ivar message: for people.
    """

    code: str
    message: str


def encode_bind(bind: Bind) -> bytes:
    """Encode a bind, with its length."""
    value: dict[str, object] = {
        "dtls": {"host": bind.host.hex(), "client": bind.client.hex()},
        "keys": bind.keys.hex(),
    }
    if bind.confirm:
        value["confirm"] = bind.confirm.hex()
    if bind.second:
        value["second"] = b64encode(bind.second).decode("ascii")
    return _framed(value)


def encode_refusal(code: str, message: str) -> bytes:
    """Encode a refusal, with its length. The message becomes one line of a log."""
    return _framed({"refused": str(code), "message": one_line(message)})


def _framed(value: dict[str, object]) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return _LENGTH.pack(len(text)) + text


def _decode(text: bytes) -> Bind | Refusal | None:
    """Decode a message; None: it is of a later version.

    :raises ValueError: it is malformed.
    """
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueError("a message that is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("a message that is not a JSON object")
    if "refused" in value:
        code, message = value["refused"], value.get("message")
        if not isinstance(code, str):
            raise ValueError("a refusal whose code is not text")
        return Refusal(clean_text(code) or "unknown", _shown(message) if isinstance(message, str) else "")
    if "dtls" not in value:
        return None
    seen = value["dtls"]
    if not isinstance(seen, dict):
        raise ValueError("a bind without the certificates that its sender sees")
    confirm = b"" if "confirm" not in value else _digest(value, "confirm")
    return Bind(_digest(seen, "host"), _digest(seen, "client"), _digest(value, "keys"), confirm, _second(value))


def _shown(text: str) -> str:
    # As long as our own refusals may be, which name a remedy at their end.
    return one_line(text).encode("utf-8", "replace").decode("utf-8")


def _digest(value: dict[str, object], key: str) -> bytes:
    text = value.get(key)
    if not isinstance(text, str) or len(text) != 2 * _DIGEST:
        raise ValueError(f"a bind whose {key} is not 32 bytes")
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    # Spaces are allowed between the digits.
    if len(digest) != _DIGEST:
        raise ValueError(f"a bind whose {key} is not 32 bytes")
    return digest


def _second(value: dict[str, object]) -> bytes:
    text = value.get("second", "")
    if not isinstance(text, str):
        raise ValueError("a bind whose second is not text")
    try:
        proof = b64decode(text, validate=True)
    except (ValueError, Error):
        raise ValueError("a bind whose second is not base64") from None
    if len(proof) > MAX_SECOND:
        raise ValueError(f"a bind whose second has more than {MAX_SECOND} bytes")
    return proof


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


class Messages:
    """The messages in what comes in TLS."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Bind | Refusal | None]:
        """Take bytes, and return the messages that are complete; None stands for one of a later version.

        :raises ValueError: one is malformed, or too long. Nothing can be taken any more.
        """
        waiting = self._data
        waiting += data
        found = []
        while len(waiting) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(waiting)
            if length > MAX_MESSAGE:
                raise ValueError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(waiting) < end:
                break
            found.append(_decode(bytes(waiting[_LENGTH.size : end])))
            del waiting[:end]
        return found
