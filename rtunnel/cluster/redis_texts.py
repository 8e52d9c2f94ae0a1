"""What goes through Redis as JSON. Other programs may write there too, so nothing is taken for granted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rtunnel.cluster.interface import Away

#: The longest message, and the longest text about a node, in bytes of JSON.
MAX_MESSAGE = 256 * 1024


def packed(sender: str, message: Mapping[str, Any]) -> bytes:
    """Return a message as it is published.

    :raises Away: it is too long.
    """
    text = json.dumps({"from": sender, "message": message}).encode()
    if len(text) > MAX_MESSAGE:
        raise Away(f"the message has {len(text):,} bytes, and at most {MAX_MESSAGE:,} are sent")
    return text


def unpacked(text: bytes) -> tuple[str, Mapping[str, Any]]:
    """Return sender and message.

    :raises ValueError: it is none of ours.
    """
    if len(text) > MAX_MESSAGE:
        raise ValueError("a message that is too long")
    try:
        found = json.loads(text)
        sender, message = found["from"], found["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("a message that cannot be read") from None
    if not isinstance(sender, str) or not isinstance(message, dict):
        raise ValueError("a message that cannot be read")
    return sender, message


def parsed(reply: bytes, name: str, count: int | None = None) -> Sequence[Any]:
    """Return a list of a script's reply.

    :param count: how many items there must be; None: any number.
    :raises Away: there is no such list.
    """
    try:
        found = json.loads(str(reply, "utf-8", "replace"))[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Away("a script returned something odd") from None
    # An empty list in Lua is an empty table.
    if found == {}:
        found = []
    if not isinstance(found, list) or (count is not None and len(found) != count):
        raise Away("a script returned something odd")
    return found


def nodes_of(reply: bytes) -> tuple[Mapping[str, Mapping[str, Any]], bool]:
    """Return the other nodes, and whether all that they say about themselves could be read.

    :raises Away: the reply is odd.
    """
    nodes: dict[str, Mapping[str, Any]] = {}
    is_fine = True
    for each in parsed(reply, "nodes"):
        try:
            node, about = each
            found = json.loads(about) if about else {}
        except (ValueError, TypeError, RecursionError):
            is_fine, found = False, {}
        if not isinstance(found, dict):
            is_fine, found = False, {}
        nodes[str(node)] = found
    return nodes, is_fine
