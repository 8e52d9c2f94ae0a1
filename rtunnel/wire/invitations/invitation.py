"""One invitation, as the host keeps it.

    waiting --offer--> answered --right confirmation--> used
       |                  +-------wrong, none, too late--> failed
       +--withdrawn, expired

Once the host has answered, the only guess is spent, whatever comes of it. What the host does not understand, it does
not answer, and that costs nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from rtunnel.errors import BadSignal
from rtunnel.wire.invitations.code import InvitationCode
from rtunnel.wire.invitations.exchange import HOST, BadExchange, Confirmation, Half
from rtunnel.wire.invitations.messages import Answer, answer_payload, read_offer

#: Seconds for which an invitation can be used.
LASTS: Final = 600.0
#: Seconds that a client has for its connection after it was answered.
CONNECTS_WITHIN: Final = 60.0


class Stage(Enum):
    """See the docstring of the module."""

    WAITING = "waiting"
    ANSWERED = "answered"
    USED = "used"
    FAILED = "failed"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


#: Where the only guess is spent.
SPENT = frozenset({Stage.ANSWERED, Stage.USED, Stage.FAILED})


class Invitation:
    """One invitation.

    :param code: its code.
    :param host_id: the host's ID.
    :param now: seconds, on a clock that does not run backwards.
    :ivar code: its code.
    :ivar stage: where it is.
    :ivar ends_at: when it ends by itself.
    :ivar was_wrong: whether it has failed by a confirmation that was wrong, not by one that did not come.
    """

    def __init__(self, code: InvitationCode, host_id: str, now: float) -> None:
        self.code = code
        self.stage = Stage.WAITING
        self.ends_at = now + LASTS
        self.was_wrong = False
        self._host_id = host_id
        self._half: Half | None = Half(code, HOST)
        self._confirmation: Confirmation | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing can come of it any more."""
        return self.stage not in (Stage.WAITING, Stage.ANSWERED)

    def take_offer(self, payload: object, now: float) -> dict[str, object]:
        """Take a client's message, and return the payload of the answer. It can be done once.

        :raises BadSignal: the message is malformed, which costs nothing; or the invitation has been answered or is
            over.
        """
        self.tick(now)
        half = self._half
        if self.stage is not Stage.WAITING or half is None:
            raise BadSignal(f"a message about an invitation that is {self.stage.value}")
        theirs = read_offer(payload)
        self._half = None
        self.stage = Stage.ANSWERED
        self.ends_at = now + CONNECTS_WITHIN
        try:
            self._confirmation = half.finish(theirs, self._host_id)
        except BadExchange as error:
            self.was_wrong = True
            self._end(Stage.FAILED)
            raise BadSignal(str(error)) from error
        return answer_payload(Answer(half.message, self._host_id))

    @property
    def confirmation(self) -> Confirmation | None:
        """What the client is to confirm; None if nobody is to."""
        return self._confirmation

    def confirmed(self, is_right: bool) -> None:
        """Take note of what came from a client that has named this invitation."""
        if self.stage is Stage.ANSWERED:
            self.was_wrong = not is_right
            self._end(Stage.USED if is_right else Stage.FAILED)

    def withdraw(self) -> None:
        """End it: the operator does not want it any more."""
        if not self.is_over:
            self._end(Stage.WITHDRAWN)

    def tick(self, now: float) -> None:
        """End it if its time is over."""
        if not self.is_over and now >= self.ends_at:
            self._end(Stage.EXPIRED if self.stage is Stage.WAITING else Stage.FAILED)

    def _end(self, stage: Stage) -> None:
        self.stage = stage
        self._half = self._confirmation = None
