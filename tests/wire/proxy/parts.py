"""A handshake with a proxy whose answers are known."""

from __future__ import annotations

from typing import Any


def run(handshake: Any, answer: bytes, most: int = 2**31) -> tuple[bytes, bytes]:
    """Give *answer* to a handshake, as much as it wants and at most so many bytes at once.

    :returns: what it has sent behind the first message, and what it left of the answer.
    """
    sent = b""
    while answer and handshake.wants:
        count = min(handshake.wants, most)
        part, answer = answer[:count], answer[count:]
        sent += handshake.feed(part)
    return sent, answer
