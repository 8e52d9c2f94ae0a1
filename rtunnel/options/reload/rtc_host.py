"""How ``rtc-host`` takes other settings while it runs."""

from __future__ import annotations

from typing import Any

from rtunnel.options.reload.part import Part, Reloadable
from rtunnel.options.reload.rtc_ends import look_at_files, shared_parts
from rtunnel.rtc.host import RtcHost

_SERVICES = frozenset({"remote", "protocol", "service", "dial-timeout", "check-services"})


def reloadable(host: RtcHost) -> Reloadable:
    """Return what applies other settings to a host."""
    signaling, *others = shared_parts(host)

    def signal(new: Any) -> None:
        signaling.apply(new)
        host.invitations.use(new.settings.signal)

    parts = (
        Part(signaling.names, signal),
        *others,
        Part(_SERVICES, lambda new: host.use_services(new.settings)),
    )
    return Reloadable(host, parts, lambda: look_at_files(host))
