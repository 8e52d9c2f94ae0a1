"""The text messages on a data channel: credit, the end of a direction, a reset (docs/wire.rst).

    {"credit": <absolute offset>}    {"fin": <total bytes>}    {"reset": "<code>", "message": "<why>"}

Whatever a peer sends is decoded to a value or raises ``ValueError``. Text from the peer is cleaned before it can reach
the log. Unknown keys are ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from rtunnel.wire.credit import MAX_OFFSET
from rtunnel.wire.messages import clean_text

#: The longest control message, in bytes.
MAX_CONTROL = 4096


@dataclass(frozen=True, slots=True)
class Control:
    """One control message; a field is None if the message does not have it.

    :ivar credit: the offset up to which the sender of the message will receive.
    :ivar fin: the number of bytes that the sender has sent on this stream; there are no more.
    :ivar reset: both directions end at once, for this reason: a :class:`rtunnel.errors.Code` or an unknown one.
    :ivar message: the reason, for people.
    """

    credit: int | None = None
    fin: int | None = None
    reset: str | None = None
    message: str = ""


def encode_credit(limit: int) -> str:
    """Encode: we will receive up to the offset *limit*."""
    return f'{{"credit":{limit}}}'


def encode_fin(total: int) -> str:
    """Encode: we have sent *total* bytes, and send no more."""
    return f'{{"fin":{total}}}'


def encode_reset(code: str, message: str) -> str:
    """Encode: the stream ends at once, in both directions. The message is cut to the length of a log line."""
    value = {"reset": str(code)}
    if message:
        value["message"] = clean_text(message)
    return json.dumps(value, separators=(",", ":"))


def decode_control(text: bytes) -> Control:
    """Decode a control message.

    :raises ValueError: it is not a JSON object, or one of its values is malformed.
    """
    if len(text) > MAX_CONTROL:
        raise ValueError(f"a control message of {len(text)} bytes")
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueError("a control message that is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("a control message that is not a JSON object")
    reset, message = value.get("reset"), value.get("message")
    if "reset" in value and not isinstance(reset, str):
        raise ValueError("a reset whose code is not text")
    return Control(
        _offset(value, "credit"),
        _offset(value, "fin"),
        None if reset is None else clean_text(reset) or "unknown",
        clean_text(message) if isinstance(message, str) else "",
    )


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _offset(value: dict[str, object], key: str) -> int | None:
    if key not in value:
        return None
    offset = value[key]
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset <= MAX_OFFSET:
        raise ValueError(f"a {key} that is not an offset in a stream")
    return offset
