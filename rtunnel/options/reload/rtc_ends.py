"""What ``rtc-host`` and ``rtc-client`` do with other settings in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rtunnel.access.invited import InvitedTrust
from rtunnel.options.plugins.reactor import look_up_first
from rtunnel.options.reload.part import Part
from rtunnel.options.reload.shared import budget_of, drain_of
from rtunnel.rtc.rights.own import CHANGED, OwnIdentity
from rtunnel.rtc.rights.trusted import say_if_open, trust_of
from rtunnel.rtc.settings import EndSettings

_IDENTITY = frozenset({"identity-cert", "identity-key"})
#: Only one of them can say whom a client trusts, so they change together.
_TRUST = frozenset({"peer-ca", "authorized-clients", "host-key", "known-hosts", "trust-on-first-use", "host-name"})
_SIGNALING = frozenset({"signal", "token", "ca-file", "reconnect-min", "reconnect-max", "connect-timeout"})


def shared_parts(end: Any) -> Sequence[Part]:
    """Return the parts of a host or a client."""

    def signaling(new: Any) -> None:
        settings: EndSettings = new.settings
        look_up_first(end.reactor, *(url.host for url in settings.signal.url.all))
        end.signaling.use(settings.signal)

    def identity(new: Any) -> None:
        own = OwnIdentity(new.settings)
        end.sealing.use(own.now)
        end.own = own

    def trust(new: Any) -> None:
        if isinstance(end.trust, InvitedTrust) and not end.trust.fingerprint:
            # It is to trust the host that shows that it knows the code, whatever the lists say.
            return
        # Those who are connected are judged once a second.
        end.trust = end.sealing.trust = trust_of(new.settings)
        say_if_open(new.settings, end.trust)

    return (
        Part(_SIGNALING, signaling),
        drain_of(end),
        budget_of(end.memory),
        Part(_IDENTITY, identity),
        Part(_TRUST, trust),
    )


def look_at_files(end: Any) -> list[str]:
    """Return a line if the certificate of a host or a client has changed in its files."""
    return [CHANGED] if end.look_at_identity() else []
