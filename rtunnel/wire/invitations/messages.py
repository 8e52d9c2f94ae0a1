"""The two signaling messages of an invitation (docs/wire.rst, "Invitations").

client -> rtunnel-invite-7     offer   {"pake": "41..."}
rtunnel-invite-7 -> client     answer  {"pake": "42...", "host": "myhost"}
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rtunnel.errors import BadSignal
from rtunnel.wire.invitations.exchange import CLIENT, HOST, MESSAGE, is_point
from rtunnel.wire.webrtc.signaling import is_id


@dataclass(frozen=True, slots=True)
class Answer:
    """What a host answers.

    :ivar pake: its message of SPAKE2.
    :ivar host: the ID under which it is found from then on.
    """

    pake: bytes
    host: str


def offer_payload(pake: bytes) -> dict[str, object]:
    """Make the payload of the client's message."""
    return {"pake": pake.hex()}


def answer_payload(answer: Answer) -> dict[str, object]:
    """Make the payload of the host's message."""
    return {"pake": answer.pake.hex(), "host": answer.host}


def read_offer(payload: object) -> bytes:
    """Read the payload of the client's message, and return its message of SPAKE2.

    :raises BadSignal: it is malformed, or no client has sent it.
    """
    return _pake(payload, CLIENT)


def read_answer(payload: object) -> Answer:
    """Read the payload of the host's message.

    :raises BadSignal: it is malformed, or no host has sent it.
    """
    pake = _pake(payload, HOST)
    host = payload.get("host") if isinstance(payload, dict) else None
    if not isinstance(host, str) or not is_id(host):
        raise BadSignal("an answer to an invitation without the ID of the host")
    return Answer(pake, host)


def _pake(payload: object, role: bytes) -> bytes:
    text = payload.get("pake") if isinstance(payload, dict) else None
    if not isinstance(text, str) or len(text) != 2 * MESSAGE or not re.fullmatch("[0-9a-f]*", text):
        raise BadSignal("a message about an invitation that is malformed")
    pake = bytes.fromhex(text)
    if not is_point(pake, role):
        raise BadSignal(f"a message about an invitation that no {role.decode()} has made")
    return pake
