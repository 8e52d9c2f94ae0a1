"""Whether the server would publish a tunnel: it is asked, and publishes nothing."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, TimeoutError as StepTimeout

from rtunnel.doctor import advice
from rtunnel.doctor.greeting import Greeting, Refusal
from rtunnel.doctor.steps import WITHIN, Found, Status, Trouble, within
from rtunnel.errors import Code
from rtunnel.reverse.client.wanted import request_of
from rtunnel.reverse.settings import TunnelSettings

#: Why a server refuses what the client of the same configuration has now.
_TAKEN = (Code.PORT_IN_USE, Code.HOST_IN_USE, Code.LIMIT)


async def ask_for(reactor: Any, greeting: Greeting, number: int, tunnel: TunnelSettings) -> Found:
    """Ask the server whether it would publish *tunnel* now. It must have the capability ``check``.

    :param number: one that was not asked about before.
    :raises Trouble: it would not, or does not answer.
    """
    try:
        await within(reactor, WITHIN, greeting.ask(number, request_of(tunnel)))
    except Refusal as error:
        text, remedy = f"the server would refuse it now: {error.text}", advice.for_tunnel(error.text)
        if error.code in _TAKEN:
            # We may not see the client of this configuration: another user's, or on another machine.
            text = f"{text} (in order if the client of this configuration runs)"
            return Found(text, f"If the client of this configuration does not run: {remedy}", Status.WARN)
        raise Trouble(text, remedy) from error
    except (StepTimeout, CancelledError):
        raise Trouble(f"the server does not say within {WITHIN:g} s whether it allows it") from None
    return Found("the server allows it")
