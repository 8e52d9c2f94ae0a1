"""A client that has a code, and does not know its host yet.

    waiting for signaling -> asked -> answered -> known, or failed

Nothing is tried twice: once the host has answered, the code is spent. If signaling is lost before, the same message is
sent again when it is back, which the host answers only if it has not done so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from rtunnel import delayed_calls
from rtunnel.errors import BadSignal
from rtunnel.wire.invitations.code import InvitationCode
from rtunnel.wire.invitations.exchange import CLIENT, BadExchange, Confirmation, Half
from rtunnel.wire.invitations.messages import offer_payload, read_answer
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import ANSWER, ERROR, OFFER, Signal

#: Seconds that the host has to answer.
ANSWER_TIMEOUT: Final = 10.0
#: Seconds from the answer to what the client does next. How long the key takes depends on the code, and whoever sits on
#: the way should not see it.
SETTLES_AFTER: Final = 0.1


class Redeeming:
    """Finds the host of an invitation.

    :param send: sends a message to the signaling server; returns False if it cannot.
    :param known: is given the host's ID and what the two ends have to confirm to each other.
    :param failed: is given the reason, a line for the person who has typed the code.
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        code: InvitationCode,
        send: Callable[[Signal], bool],
        known: Callable[[str, Confirmation], None],
        failed: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._code = code
        self._send = send
        self._known = known
        self._failed = failed
        # All that depends on the code is computed before anybody can wait for it.
        self._half: Half | None = Half(code, CLIENT)
        self._message = self._half.message
        self._timer: IDelayedCall | None = None
        self._is_over = False

    @property
    def number(self) -> str:
        """The number of the invitation, as the host knows it."""
        return str(self._code.number)

    def signaling_up(self) -> None:
        """Ask the host, unless it has answered."""
        if self._half is None or self._is_over:
            return
        self.log.info("asking the host of invitation {number}", number=self.number)
        self._send(Signal(OFFER, offer_payload(self._message), self._code.signaling_id))
        self._set_timer(ANSWER_TIMEOUT, self._too_late)

    def signaling_down(self) -> None:
        """Wait until signaling is back."""
        if self._half is not None:
            self.stop_timer()

    def signal_received(self, signal: Signal) -> bool:
        """Take a message.

        :returns: False if it is not about the invitation.
        """
        is_waiting = self._half is not None and not self._is_over
        if signal.sender_id != self._code.signaling_id and not (
            # Of a reference server.
            is_waiting and signal.type == ERROR and not signal.sender_id
        ):
            return False
        if not is_waiting:
            return True
        if signal.type == ERROR:
            self._fail(self._explained(clean_text(str(signal.payload))))
        elif signal.type == ANSWER:
            self._take_answer(signal.payload)
        return True

    def _take_answer(self, payload: object) -> None:
        half, self._half = self._half, None
        assert half is not None
        self.stop_timer()
        answered_at = self._clock.seconds()
        try:
            answer = read_answer(payload)
            confirmation = half.finish(answer.pake, answer.host)
        except (BadSignal, BadExchange) as error:
            self._fail(
                f"whoever answers to invitation {self.number} is no host of rtunnel ({error}): somebody may sit "
                "between you and the host; ask for a new code"
            )
            return
        wait = max(0.0, answered_at + SETTLES_AFTER - self._clock.seconds())
        self._set_timer(wait, lambda: self._is_known(answer.host, confirmation))

    def _is_known(self, host: str, confirmation: Confirmation) -> None:
        self._is_over = True
        self._known(host, confirmation)

    def _explained(self, why: str) -> str:
        if why.startswith(("there is no ", "Host not found")):
            return (
                f"there is no invitation {self.number}: it was used, withdrawn or is older than 10 minutes, or the "
                "host is at another signaling server (--signal); ask for a new code"
            )
        return f"the signaling server does not pass the code on: {why}"

    def _too_late(self) -> None:
        self._fail(f"the host of invitation {self.number} does not answer; ask for a new code")

    def _fail(self, why: str) -> None:
        self._is_over = True
        self.stop()
        self._failed(why)

    def _set_timer(self, wait: float, call: Callable[[], None]) -> None:
        self.stop_timer()
        self._timer = self._clock.callLater(wait, call)

    def stop_timer(self) -> None:
        """Wait for nothing."""
        timer, self._timer = self._timer, None
        delayed_calls.cancel(timer)

    def stop(self) -> None:
        """End it."""
        self._half = None
        self.stop_timer()
