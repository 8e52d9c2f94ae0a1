"""What the other end announces about seals in its description, and whether that is enough here.

Nothing of it is authentic. A list of hedges that somebody has changed on the way only makes the ends refuse each other,
or fail: each mixes in what it was told by its own operator, or carries nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtunnel.errors import Code
from rtunnel.rtc.sealed.sealing import Sealing
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.sealed_keys import Side
from rtunnel.wire.webrtc.signaling import Extension

#: What a client is told whose offer does not announce sealed channels.
NOT_SEALED = (
    "it takes sealed connections only, and the offer that has come does not announce one; update rtunnel, and if it is "
    "new, somebody on the way has changed the offer"
)
_OFFER_NOT_SEALED = (
    "its offer does not say that it seals its channels; its rtunnel is too old, or somebody on the way has changed the "
    "offer"
)
_ANSWER_NOT_SEALED = (
    "the answer does not say that it seals its channels, and only such hosts are accepted here; its rtunnel is too "
    "old, or somebody on the way has changed the answer"
)


@dataclass(frozen=True, slots=True)
class NotEnough:
    """Why a description is refused.

    :ivar why: for the log of this end.
    :ivar code: for the other end.
    :ivar message: for the other end.
    """

    why: str
    code: Code
    message: str


def not_enough(sealing: Sealing, extension: Extension | None) -> NotEnough | None:
    """Return why a description of the other end is refused; None: it is not.

    :param extension: what the description announces; None: nothing.
    """
    is_host = sealing.side is Side.HOST
    seals = extension is not None and extension.seal
    if sealing.needs_seals and not seals:
        why = _OFFER_NOT_SEALED if is_host else _ANSWER_NOT_SEALED
        return NotEnough(why, Code.UNAUTHORIZED, NOT_SEALED)
    theirs = extension.hedge if extension is not None else ()
    why = clean_text(sealing.hedges.why_different(theirs, is_client=not is_host, server="host"))
    return NotEnough(why, Code.NOT_SUPPORTED, why) if why else None
