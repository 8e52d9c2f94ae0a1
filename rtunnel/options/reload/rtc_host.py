"""How ``rtc-host`` takes other settings while it runs."""

from __future__ import annotations

from rtunnel.options.reload.part import Part, Reloadable
from rtunnel.options.reload.rtc_ends import shared_parts
from rtunnel.rtc.host import RtcHost

_SERVICES = frozenset({"remote", "protocol", "service", "dial-timeout", "check-services"})


def reloadable(host: RtcHost) -> Reloadable:
    """Return what applies other settings to a host."""
    return Reloadable(host, (*shared_parts(host), Part(_SERVICES, lambda new: host.use_services(new.settings))))
