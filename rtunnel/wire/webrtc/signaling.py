"""Signaling messages: one JSON text each, over a WebSocket (docs/wire.rst, "Signaling").

    {"type": "...", "payload": ..., "target_id": "...", "sender_id": "...", "key": "..."}

Whatever a peer sends is decoded to a value or raises :class:`~rtunnel.errors.BadSignal`. A server never forwards the
text that came: it encodes again what it decoded, so that two parsers cannot read two meanings. Unknown keys of a
payload are kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import isfinite
from typing import Final

from rtunnel.errors import BadSignal
from rtunnel.wire.messages import clean_text, read_hedges

#: The longest message that our signaling server accepts by default, in bytes.
MAX_MESSAGE = 65536
#: The longest message that a reference server accepts, in bytes.
REFERENCE_MAX_MESSAGE = 10240
#: The longest ID, in characters.
MAX_ID = 128
#: The longest candidate, and the longest name of its media section, in characters.
MAX_CANDIDATE = 1024
#: The WebSocket subprotocol of rtunnel's servers; a reference server selects none.
SUBPROTOCOL = "rtunnel.signaling.v1"
#: The version of our extension to the channels.
VERSION = 1
#: The longest number of an invitation, in digits.
MAX_INVITATION = 4
#: The version of sealed channels.
SEAL = 1

REGISTER_HOST: Final = "register-host"
OFFER: Final = "offer"
ANSWER: Final = "answer"
CANDIDATE: Final = "candidate"
ERROR: Final = "error"
#: The payload of ``register-host`` with which an rtunnel client registers at an rtunnel server, before its first offer.
AS_CLIENT: Final = "client"
TYPES = frozenset({REGISTER_HOST, OFFER, ANSWER, CANDIDATE, ERROR})


@dataclass(frozen=True, slots=True)
class Signal:
    """One message.

    :ivar type: one of :data:`TYPES`.
    :ivar payload: any JSON value; None if absent.
    :ivar target_id: the receiver; empty: the server.
    :ivar sender_id: the sender. In an ``error`` of our server: the ID that the error is about.
    :ivar key: in a registration: a secret by which the server knows the holder of an ID that comes again. It is not
        forwarded.
    """

    type: str
    payload: object = None
    target_id: str = ""
    sender_id: str = ""
    key: str = field(default="", repr=False, compare=False)


def encode_signal(signal: Signal) -> bytes:
    """Encode *signal* as JSON; empty IDs are left out, an absent payload is null."""
    value: dict[str, object] = {"type": signal.type, "payload": signal.payload}
    if signal.target_id:
        value["target_id"] = signal.target_id
    if signal.sender_id:
        value["sender_id"] = signal.sender_id
    if signal.key:
        value["key"] = signal.key
    return json.dumps(value, separators=(",", ":")).encode("utf-8")


def decode_signal(text: bytes) -> Signal:
    """Decode a message.

    :raises BadSignal: it is not a JSON object, its type is unknown, or an ID is malformed.
    """
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        raise BadSignal("a message that is not JSON") from None
    if not isinstance(value, dict):
        raise BadSignal("a message that is not a JSON object")
    kind = value.get("type")
    if not isinstance(kind, str):
        raise BadSignal("a message without a type")
    if kind not in TYPES:
        raise BadSignal(f"a message of the unknown type '{clean_text(kind)}'")
    return Signal(kind, value.get("payload"), _id(value, "target_id"), _id(value, "sender_id"), _id(value, "key"))


def _finite(text: str) -> float:
    value = float(text)
    # A number that is too large would be encoded again as `Infinity`, which is not JSON.
    return value if isfinite(value) else _no_constant(text)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _id(value: dict[str, object], key: str) -> str:
    text = value.get(key)
    if text is None or text == "":
        return ""
    if not isinstance(text, str) or not is_id(text):
        raise BadSignal(f"a message whose {key} is not printable text of up to {MAX_ID} characters")
    return text


def is_id(text: str) -> bool:
    """Return whether *text* can be the ID of a host or client: printable, 1 to :data:`MAX_ID` characters."""
    return 0 < len(text) <= MAX_ID and text.isprintable()


# Offers and answers


@dataclass(frozen=True, slots=True)
class Extension:
    """``"rtunnel"`` beside ``"sdp"``: the sender knows credit, half-close and error reasons.

    :ivar initial_credit: bytes that may be sent to it on a new stream before it grants more.
    :ivar ice_restart: whether another offer in the same session keeps the connection.
    :ivar seal: whether it seals its channels, if the other end does.
    :ivar hedge: the KEMs beside ML-KEM whose secrets it mixes into the keys of sealed channels, in their order.
    :ivar invitation: of a client, the number of the invitation by which it comes; empty: none.
    """

    initial_credit: int
    version: int = VERSION
    ice_restart: bool = False
    seal: bool = False
    invitation: str = ""
    hedge: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """The payload of an offer or answer.

    :ivar sdp: the session description (RFC 8866).
    :ivar extension: None if the sender speaks the reference protocol.
    """

    sdp: str
    extension: Extension | None = None


def description_payload(kind: str, description: Description) -> dict[str, object]:
    """Make the payload of an offer or answer.

    :param kind: :data:`OFFER` or :data:`ANSWER`.
    """
    payload: dict[str, object] = {"sdp": {"type": kind, "sdp": description.sdp}}
    extension = description.extension
    if extension is not None:
        payload["rtunnel"] = {
            "version": extension.version,
            "initial_credit": extension.initial_credit,
            "ice_restart": extension.ice_restart,
            **({"seal": SEAL} if extension.seal else {}),
            **({"hedge": list(extension.hedge)} if extension.hedge else {}),
            **({"invitation": extension.invitation} if extension.invitation else {}),
        }
    return payload


def refusal_payload(code: str, message: str) -> dict[str, object]:
    """Make the payload of an answer that refuses the offer.

    :param code: a :class:`rtunnel.errors.Code`.
    :param message: for people.
    """
    return {"refused": str(code), "message": message}


def read_refusal(payload: object) -> str:
    """Return why an answer refuses the offer; empty if it does not."""
    if not isinstance(payload, dict) or not isinstance(payload.get("refused"), str):
        return ""
    message = payload.get("message")
    return clean_text(message if isinstance(message, str) and message else payload["refused"]) or "unknown"


def read_description(kind: str, payload: object) -> Description:
    """Read the payload of an offer or answer. A malformed extension, or one of a version below ours, is ignored.

    :param kind: :data:`OFFER` or :data:`ANSWER`.
    :raises BadSignal: it has no session description, or one of another type.
    """
    outer = payload.get("sdp") if isinstance(payload, dict) else None
    if not isinstance(payload, dict) or not isinstance(outer, dict):
        raise BadSignal(f"an {kind} without a session description")
    sdp = outer.get("sdp")
    if outer.get("type") != kind or not isinstance(sdp, str):
        raise BadSignal(f"an {kind} whose session description is not an {kind}")
    return Description(sdp, _extension(payload.get("rtunnel")))


def _extension(value: object) -> Extension | None:
    if not isinstance(value, dict):
        return None
    version, credit = value.get("version"), value.get("initial_credit")
    if not isinstance(version, int) or isinstance(version, bool) or version < VERSION:
        return None
    if not isinstance(credit, int) or isinstance(credit, bool) or not 0 <= credit < 2**62:
        return None
    seal = value.get("seal")
    seals = isinstance(seal, int) and not isinstance(seal, bool) and seal >= SEAL
    invitation = value.get("invitation")
    is_number = isinstance(invitation, str) and len(invitation) <= MAX_INVITATION and invitation.isdecimal()
    return Extension(
        credit,
        VERSION,
        value.get("ice_restart") is True,
        seals,
        str(invitation) if is_number else "",
        read_hedges(value.get("hedge")),
    )


# Candidates


@dataclass(frozen=True, slots=True)
class Candidate:
    """An ICE candidate, as ``RTCIceCandidateInit`` of W3C WebRTC has it.

    :ivar candidate: ``candidate:...`` (RFC 8839, section 5.1); empty: end of candidates.
    :ivar mid: ``sdpMid``; None or empty: :attr:`line_index` counts.
    :ivar line_index: ``sdpMLineIndex``.
    :ivar fragment: ``usernameFragment``, which says to which description it belongs; None if it is not given.
    """

    candidate: str
    mid: str | None = "0"
    line_index: int | None = 0
    fragment: str | None = None


def candidate_payload(candidate: Candidate) -> dict[str, object]:
    """Make the payload of a candidate message."""
    return {
        "candidate": {
            "candidate": candidate.candidate,
            "sdpMid": candidate.mid,
            "sdpMLineIndex": candidate.line_index,
            "usernameFragment": candidate.fragment,
        }
    }


def read_candidate(payload: object) -> Candidate:
    """Read the payload of a candidate message.

    :raises BadSignal: the payload is malformed.
    """
    inner = payload.get("candidate") if isinstance(payload, dict) else None
    if not isinstance(inner, dict):
        raise BadSignal("a candidate message without a candidate")
    text, mid, index = inner.get("candidate"), inner.get("sdpMid"), inner.get("sdpMLineIndex")
    if not isinstance(text, str):
        raise BadSignal("a candidate message whose candidate is not text")
    if not isinstance(mid, str | None) or not isinstance(index, int | None) or isinstance(index, bool):
        raise BadSignal("a candidate whose sdpMid or sdpMLineIndex is malformed")
    fragment = inner.get("usernameFragment")
    if not isinstance(fragment, str | None):
        raise BadSignal("a candidate whose usernameFragment is malformed")
    if max(len(text), len(mid or ""), len(fragment or "")) > MAX_CANDIDATE:
        raise BadSignal(f"a candidate of more than {MAX_CANDIDATE} characters")
    return Candidate(text, mid, index, fragment)
