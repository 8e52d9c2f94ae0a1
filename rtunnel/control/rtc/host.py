"""What ``rtc-host`` does now (docs/control.rst)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from rtunnel.control.actions.disconnect import WHY, Connected
from rtunnel.control.parts import answering, carried, resources
from rtunnel.control.rtc.parts import peer_connection, signaling, totals
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.invitations.hosting import OpenInvitation
from rtunnel.rtc.rights.trusted import describe
from rtunnel.rtc.rights.uses import ClientUse
from rtunnel.traffic.accounts import DEFAULT
from rtunnel.wire.invitations.invitation import SPENT
from rtunnel.wire.messages import clean_text


def look(host: RtcHost) -> dict[str, Any]:
    """Return what a host does."""
    services = [
        {
            "name": service.settings.name,
            "protocol": service.settings.protocol,
            "service": str(service.settings.remote),
            **answering(service.watch),
            "visitors": len(service.account.live),
            **carried(service.account),
        }
        for service in host.offered.values()
    ]
    problems = [
        f"the service {each['service']} does not answer: {each['problem']}" for each in services if each["problem"]
    ]
    if not host.signaling.up:
        problems.insert(0, f"no client can find this host: {signaling(host.signaling)['problem']}")
    return {
        "ready": host.signaling.up and not host.is_stopping,
        "problems": problems,
        "id": host.settings.id,
        "identity": describe(host.sealing.identity, host.trust),
        "signaling": signaling(host.signaling),
        **resources(host, host.memory),
        "services": services,
        "invitations": [_invitation(each, host.reactor.seconds()) for each in host.invitations.latest],
        "peers": [{**peer_connection(peer), **_use(peer.use)} for peer in host.peers],
        "peer_totals": totals(host.history, host.peers),
    }


def _invitation(each: OpenInvitation, now: float) -> dict[str, Any]:
    """Return where an invitation is, without its code.

    :param now: by the reactor's clock.
    """
    services, found = each.terms.services, each.invitation
    until = None
    if found is not None and not each.is_over:
        until = (datetime.now(UTC) + timedelta(seconds=found.ends_at - now)).isoformat(timespec="seconds")
    return {
        "number": each.number,
        "services": None if services is None else sorted(name or DEFAULT for name in services),
        "for": each.terms.name or None,
        "stage": each.stage.value,
        "spent": each.stage in SPENT,
        "until": until,
        "client": clean_text(each.client) or None,
    }


def _use(use: ClientUse) -> dict[str, Any]:
    """Return what a client uses, and may use."""
    rights = use.rights
    return {
        "client": clean_text(use.name),
        "may": {
            "services": None if rights.services is None else sorted(each or DEFAULT for each in rights.services),
            "streams": rights.streams,
            "bytes_per_second": rights.rate,
            "until": None if rights.until is None else rights.until.isoformat(),
        },
        "uses": [
            {
                "service": each.name or DEFAULT,
                "streams": len(each.live),
                "streams_total": each.streams,
                **dict(zip(("from_client", "to_client"), each.totals, strict=True)),
            }
            for each in use
        ],
    }


def connected(host: RtcHost) -> Iterator[Connected]:
    """Yield the clients of a host."""
    for peer in list(host.peers):
        yield Connected((clean_text(peer.name), peer.name), partial(peer.give_up, WHY))
