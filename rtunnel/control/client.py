"""What ``rtunnel-client`` does now (docs/control.rst)."""

from __future__ import annotations

from typing import Any

from rtunnel.control.parts import answering, milliseconds, resources, secured
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.client.session import ClientSession
from rtunnel.reverse.settings import ClientSettings


def look(client: TunnelClient, settings: ClientSettings) -> dict[str, Any]:
    """Return what a client does."""
    link, session = client.link, client.link.session
    problems = []
    if session is None:
        problems.append(f"there is no link to {settings.server}: {link.why_down or 'not connected yet'}")
    tunnels = [_of_settings(settings, number) for number in range(len(settings.tunnels))]
    if session is not None:
        for found, state in zip(tunnels, _states(session), strict=True):
            found.update(state)
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
        "tls": secured(session.identity) if session is not None else None,
        **resources(client, link.memory),
        "tunnels": tunnels,
    }


def _of_settings(settings: ClientSettings, number: int) -> dict[str, Any]:
    tunnel = settings.tunnels[number]
    return {
        "name": tunnel.shown_name,
        "protocol": tunnel.protocol,
        "service": tunnel.local.in_full,
        "public": None,
        "published": False,
        "refused": None,
        "answers": None,
        "problem": None,
        "group": tunnel.rules.group or None,
    }


def _states(session: ClientSession) -> list[dict[str, Any]]:
    return [
        {
            "public": tunnel.public or None,
            "published": tunnel.is_served,
            "refused": tunnel.refusal or None,
            **answering(tunnel.watch),
        }
        for tunnel in session.tunnels
    ]
