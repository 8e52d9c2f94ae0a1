"""``rtunnel host invite``: a code with which somebody else becomes a client of the running host."""

from __future__ import annotations

from typing import Any

from rtunnel.control.actions.perform import Actions, only, text
from rtunnel.errors import ConfigError
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.invitations.hosting import OpenInvitation
from rtunnel.rtc.invitations.inviting import invite
from rtunnel.rtc.invitations.terms import decide_terms, what_to_type
from rtunnel.wire.invitations.invitation import Stage

#: The longest time that one request waits for a change, in seconds.
MOST_WAIT = 20.0


class Inviting:
    """The invitations of a host, for its operator."""

    def __init__(self, host: RtcHost) -> None:
        self._host = host

    async def invite(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Open an invitation, and return its code.

        :raises ConfigError: that is not possible; the message says why.
        """
        only(asked, "services", "name")
        services = asked.get("services", [])
        if not isinstance(services, list) or not all(isinstance(each, str) and each for each in services):
            raise ConfigError("'services' must be a list of names")
        terms = decide_terms(tuple(self._host.offered), services, text(asked, "name"))
        was_open = not self._host.sealing.trust.is_closed
        each = await invite(self._host, terms)
        assert each.code is not None
        return {
            "code": str(each.code),
            "command": what_to_type(each.code, terms, self._host.settings),
            "host": self._host.settings.id,
            "terms": str(terms),
            "was_open": was_open,
            **self._shown(each),
        }

    async def look(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return where an invitation is, once that is another stage than the one that is known, or after a while.

        :raises ConfigError: there is none with that number.
        """
        only(asked, "number", "stage")
        each = self._find(asked)
        if each.stage.value == text(asked, "stage"):
            timer = self._host.reactor.callLater(MOST_WAIT, each.tell)
            await each.changed()
            if timer.active():
                timer.cancel()
        return self._shown(each)

    def withdraw(self, asked: dict[str, Any]) -> dict[str, Any]:
        """End an invitation.

        :raises ConfigError: there is none with that number, or it is over.
        """
        only(asked, "number")
        each = self._find(asked)
        if each.is_over:
            raise ConfigError(f"invitation {each.number} is over: {each.stage.value}")
        self._host.invitations.withdraw(each)
        return self._shown(each)

    def _find(self, asked: dict[str, Any]) -> OpenInvitation:
        number = asked.get("number")
        if not isinstance(number, int) or isinstance(number, bool):
            raise ConfigError("'number' must be the number of an invitation")
        each = self._host.invitations.find(number)
        if each is None:
            raise ConfigError(f"there is no invitation {number}")
        return each

    def _shown(self, each: OpenInvitation) -> dict[str, Any]:
        found = each.invitation
        waits = found is not None and each.stage in (Stage.WAITING, Stage.ANSWERED)
        left = max(0.0, found.ends_at - self._host.reactor.seconds()) if found is not None and waits else 0.0
        return {"number": each.number, "stage": each.stage.value, "seconds_left": left, "client": each.client or None}


def actions(host: RtcHost) -> Actions:
    """Return the three actions, by name."""
    inviting = Inviting(host)
    return {"invite": inviting.invite, "invitation": inviting.look, "withdraw": inviting.withdraw}
