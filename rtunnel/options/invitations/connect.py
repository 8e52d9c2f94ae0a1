"""``rtunnel connect``: the client itself, which may begin with the code of an invitation."""

from __future__ import annotations

import getopt
import sys
from collections.abc import Sequence
from dataclasses import replace

from twisted.python import usage

from rtunnel.errors import ConfigError
from rtunnel.options.plugins import rtc_client
from rtunnel.options.plugins.rtc_client import makeService
from rtunnel.options.settings.sources import Rank, Resolved
from rtunnel.options.verbs import options_first
from rtunnel.wire.invitations.code import InvitationCode, parse_code

__all__ = ["Options", "makeService"]

#: Settings that name a host, or whom to trust, as the code does.
_INSTEAD = ("id", "host-key", "peer-ca", "host-name", "trust-on-first-use")


class Options(rtc_client.Options):
    __doc__ = (rtc_client.Options.__doc__ or "") + (
        """ With the CODE that somebody gives you ('rtunnel host invite') it needs no --id: the code leads to the host,
        and both know each other from then on."""
    )

    plugin = rtc_client.Options
    synopsis = "[CODE | --id ID] --local HOST:PORT [options]"
    examples = ("rtunnel connect 7-guitarist-orca --local 127.0.0.1:8080", *rtc_client.Options.examples)  # type: ignore[assignment]

    def __init__(self) -> None:
        self.invitation: InvitationCode | None = None
        #: The host's ID, once it is known, and whether it has confirmed the code. Copies of these options share it.
        self._found = {"id": "", "is_confirmed": False}
        super().__init__()

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """See :meth:`PluginOptions.parseOptions`; the code may come first."""
        given = list(sys.argv[1:] if options is None else options)
        if given[:1] and not given[0].startswith("-"):
            try:
                given = options_first(self, given)
            except getopt.GetoptError:
                # The same error follows, with a hint.
                given = [each for each in given if each.startswith("-")]
        super().parseOptions(given)

    def parseArgs(self, *arguments: str) -> None:
        """Take a code, in one word or several.

        :raises usage.UsageError: this is none.
        """
        text = "-".join(arguments)
        if not text[:1].isdigit():
            if len(arguments) == 1:
                remedy = f"a code begins with a number; of a host's ID write --id={text}"
                raise usage.UsageError(f"'{text}' is no code: {remedy}")
            super().parseArgs(*arguments)
            return
        try:
            self.invitation = parse_code(text)
        except ConfigError as error:
            raise usage.UsageError(str(error)) from error

    def host_known(self, host: str, is_confirmed: bool) -> None:
        """See :meth:`rtc_client.Options.host_known`."""
        self._found |= {"id": host, "is_confirmed": is_confirmed}

    def build(self, resolved: Resolved) -> None:
        if self.invitation is None:
            super().build(resolved)
            return
        instead = [setting for setting in resolved.settings if setting.name in _INSTEAD]
        for setting in instead:
            if resolved.sources[setting.name].rank is Rank.FLAG:
                raise resolved.error(setting.name, "cannot be combined with a code, which says which host is meant")
        without = {setting.name: setting.default for setting in instead}
        super().build(replace(resolved, values={**resolved.values, **without, "id": self._found["id"]}))
        # Once it is used, the host is in known_hosts.
        self.settings = replace(self.settings, invitation=None if self._found["is_confirmed"] else self.invitation)
