"""What the text messages of a data channel say: credit, the end of a direction, a reset (docs/wire.rst).

    {"credit": <absolute offset>}    {"fin": <total bytes>}    {"reset": "<code>", "message": "<why>"}

Plain functions from text to meaning and back. Whatever a peer sends ends as a value or as ``ValueError``, and text of
the peer is cleaned before anybody can log it. Keys that we do not know are ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from rtunnel.wire.credit import MAX_OFFSET
from rtunnel.wire.messages import clean_text

#: Bytes of a control message; a longer one is none of ours.
MAX_CONTROL = 4096


@dataclass(frozen=True, slots=True)
class Control:
    """One control message; None where it does not say.

    :ivar credit: the offset up to which its sender will receive.
    :ivar fin: all bytes that its sender has sent on this stream; there are no more.
    :ivar reset: both directions end at once; a :class:`rtunnel.errors.Code`, or another.
    :ivar message: why, for people.
    """

    credit: int | None = None
    fin: int | None = None
    reset: str | None = None
    message: str = ""


def encode_credit(limit: int) -> str:
    """The sender of this will receive up to the offset *limit*."""
    return f'{{"credit":{limit}}}'


def encode_fin(total: int) -> str:
    """The sender of this has sent *total* bytes, and no more will come."""
    return f'{{"fin":{total}}}'


def encode_reset(code: str, message: str) -> str:
    """The stream ends at once, in both directions. The message is cut to what a log line takes."""
    value = {"reset": str(code)}
    if message:
        value["message"] = clean_text(message)
    return json.dumps(value, separators=(",", ":"))


def decode_control(text: bytes) -> Control:
    """Read a control message.

    :raises ValueError: it is no JSON object, or what it says cannot be.
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
        raise ValueError("a reset whose code is not a text")
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
