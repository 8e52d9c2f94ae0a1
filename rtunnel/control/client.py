"""What ``rtunnel-client`` does now (docs/control.rst)."""

from __future__ import annotations

from typing import Any

from rtunnel.control.parts import answering, carried, milliseconds, resources, secured
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.client.session import ClientSession
from rtunnel.reverse.client.wanted import Wanted


def look(client: TunnelClient) -> dict[str, Any]:
    """Return what a client does."""
    link, session, settings = client.link, client.link.session, client.settings
    problems = []
    if session is None:
        problems.append(f"there is no link to {settings.server}: {link.why_down or 'not connected yet'}")
    tunnels = [_tunnel(wanted, session) for wanted in link.wanted]
    for found in tunnels:
        if found["refused"]:
            problems.append(f"{found['name']} is refused by the server: {found['refused']}")
        elif found["problem"]:
            problems.append(f"the service {found['service']} of {found['name']} does not answer: {found['problem']}")
    return {
        "ready": session is not None and not client.is_stopping and all(each["published"] for each in tunnels),
        "problems": problems,
        "server": str(settings.server),
        "via": str(settings.via) if settings.via is not None else None,
        "connected_seconds": None if session is None else round(session.clock.seconds() - session.since, 3),
        "round_trip_ms": None if session is None else milliseconds(session.link.liveness.round_trip),
        "tls": secured(session.identity, session.hedged_with) if session is not None else None,
        **resources(client, link.memory),
        "tunnels": tunnels,
    }


def _tunnel(wanted: Wanted, session: ClientSession | None) -> dict[str, Any]:
    settings = wanted.settings
    tunnel = session.tunnel_of(wanted) if session is not None else None
    return {
        "name": settings.shown_name,
        "protocol": settings.protocol,
        "service": settings.local.in_full,
        "public": tunnel.public or None if tunnel is not None else None,
        "published": tunnel is not None and tunnel.is_served,
        "refused": tunnel.refusal or None if tunnel is not None else None,
        **answering(wanted.watch if tunnel is not None else None),
        "group": settings.rules.group or None,
        "visitors": len(wanted.account.live),
        **carried(wanted.account),
        "added": settings.added or None,
    }
