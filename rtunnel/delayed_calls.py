"""Calls that a reactor makes later."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall


def cancel(call: IDelayedCall | None) -> None:
    """Cancel *call*, unless there is none, or it was made or cancelled before."""
    if call is not None and call.active():
        call.cancel()
