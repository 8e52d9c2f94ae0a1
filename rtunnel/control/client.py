"""What ``rtunnel-client`` does now (docs/control.rst)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rtunnel.control.parts import answering, carried, milliseconds, resources, secured
from rtunnel.reverse.client.links.link import LinkService
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.client.session import ClientSession
from rtunnel.reverse.client.wanted import Wanted


def look(client: TunnelClient) -> dict[str, Any]:
    """Return what a client does. What it says of *the* link is of the first one that is up."""
    links, settings = client.links, client.settings
    found = [_link(link) for link in links.all]
    problems = [
        f"there is no link to {each['server']}: {each['problem'] or 'not connected yet'}"
        for each in found
        if each["connected_seconds"] is None and not each["waits"]
    ]
    first = next((each for each in found if each["connected_seconds"] is not None), found[0])
    tunnels = [_tunnel(wanted, links.all) for wanted in links.wanted]
    for tunnel in tunnels:
        for refused in dict.fromkeys(each["refused"] for each in tunnel["links"] if each["refused"]):
            where = ", ".join(each["server"] for each in tunnel["links"] if each["refused"] == refused)
            by = f"the server{f' {where}' if links.has_several else ''}"
            problems.append(f"{tunnel['name']} is refused by {by}: {refused}")
        if not tunnel["refused"] and tunnel["problem"]:
            what = f"the service {tunnel['service']} of {tunnel['name']}"
            problems.append(f"{what} does not answer: {tunnel['problem']}")
    return {
        "ready": not client.is_stopping and any(_has_all(links.wanted, session) for session in links.sessions),
        "problems": problems,
        "server": first["server"],
        "via": str(settings.via) if settings.via is not None else None,
        "connected_seconds": first["connected_seconds"],
        "round_trip_ms": first["round_trip_ms"],
        "tls": first["tls"],
        "links": found,
        **resources(client, links.memory),
        "tunnels": tunnels,
    }


def _link(link: LinkService) -> dict[str, Any]:
    session = link.session
    return {
        "server": link.server,
        "connected_seconds": None if session is None else round(session.clock.seconds() - session.since, 3),
        "round_trip_ms": None if session is None else milliseconds(session.link.liveness.round_trip),
        "tls": secured(session.identity, session.hedged_with) if session is not None else None,
        "waits": link.waits,
        "problem": link.why_down or None if session is None else None,
    }


def _has_all(all_wanted: Iterable[Wanted], session: ClientSession) -> bool:
    """Return whether all tunnels are published by a link."""
    tunnels = [session.tunnel_of(wanted) for wanted in all_wanted]
    return all(tunnel is not None and tunnel.is_served for tunnel in tunnels)


def _tunnel(wanted: Wanted, links: Sequence[LinkService]) -> dict[str, Any]:
    settings = wanted.settings
    made = [(link, link.session.tunnel_of(wanted)) for link in links if link.session is not None]
    found = [(link, tunnel) for link, tunnel in made if tunnel is not None]
    public = dict.fromkeys(tunnel.public for _, tunnel in found if tunnel.public)
    is_published = any(tunnel.is_served for _, tunnel in found)
    refusals = dict.fromkeys(tunnel.refusal for _, tunnel in found if tunnel.refusal)
    return {
        "name": settings.shown_name,
        "protocol": settings.protocol,
        "service": settings.local.in_full,
        "public": ", ".join(public) or None,
        "published": is_published,
        "refused": None if is_published else ", ".join(refusals) or None,
        "links": [
            {
                "server": link.server,
                "public": tunnel.public or None,
                "published": tunnel.is_served,
                "refused": tunnel.refusal or None,
            }
            for link, tunnel in found
        ],
        **answering(wanted.watch if found else None),
        "group": settings.rules.group or None,
        "visitors": len(wanted.account.live),
        **carried(wanted.account),
        "added": settings.added or None,
    }
