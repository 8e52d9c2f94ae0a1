"""``rtunnel host``: the host itself, and what its operator may ask of one that runs."""

from __future__ import annotations

from typing import Any, ClassVar

from rtunnel.options.invitations.invite import Options as Invite
from rtunnel.options.plugins import rtc_host
from rtunnel.options.plugins.rtc_host import makeService
from rtunnel.options.verbs import PluginVerbs

__all__ = ["Options", "makeService"]


class Options(PluginVerbs, rtc_host.Options):
    __doc__ = rtc_host.Options.__doc__

    plugin = rtc_host.Options
    subCommands: ClassVar[list[list[Any]]] = [
        ["invite", None, Invite, "A code with which somebody else becomes a client of the running host."]
    ]
