"""What ``rtunnel-server`` does now (docs/control.rst)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from rtunnel.control.actions.disconnect import WHY, Connected
from rtunnel.control.parts import carried, milliseconds, resources, secured
from rtunnel.errors import Code
from rtunnel.reverse.cluster.link import NodeLink
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.server.session import ServerSession
from rtunnel.upkeep.listening import Listener


def look(server: TunnelServer) -> dict[str, Any]:
    """Return what a server does."""
    ports: list[tuple[str, Listener | None]] = [
        ("control", server.control),
        ("shared", server.shared),
        *server.named.listeners.items(),
    ]
    clients = [_client(server, session) for session in server.sessions]
    problems = []
    for client in clients:
        for tunnel in client["tunnels"]:
            if not tunnel["ready"]:
                problems.append(f"the service of {tunnel['place']} of client {client['name']} does not answer")
            elif not tunnel["published"]:
                problems.append(f"{tunnel['place']} of client {client['name']} is not published yet")
    cluster: dict[str, Any] = {}
    if server.directory.is_cluster:
        theirs = ((node.node, each) for node in server.nodes.sessions for each in node.backends.values())
        tunnels = Counter(node for node, backend in theirs if backend.public is not None)
        cluster["nodes"] = [_node(link, tunnels[link.node]) for link in server.nodes.links]
        problems += [
            f"the link to {node['address']} is down: {node['why']}" for node in cluster["nodes"] if node["why"]
        ]
        if why := server.directory.why_away:
            problems.append(f"the directory of the cluster is away: {why}")
    return {
        # A node that cannot tell whose the places are takes no new visitors.
        "ready": not server.is_stopping and server.directory.is_sure,
        "problems": problems,
        "listening": {name: port.local_address for name, port in ports if port is not None},
        **resources(server, server.memory),
        "refused": dict(server.refusals.kinds),
        "refusals": [asdict(each) for each in server.refusals.recent],
        "clients": clients,
        **cluster,
    }


def _node(link: NodeLink, tunnels: int) -> dict[str, Any]:
    session = link.session
    return {
        "node": link.node,
        "address": str(link.where),
        "why": "" if session is not None else link.why_down or "it is being made",
        "round_trip_ms": None if session is None else milliseconds(session.link.liveness.round_trip),
        "tunnels": tunnels,
        "visitors": link.streams_left,
    }


def connected(server: TunnelServer) -> Iterator[Connected]:
    """Yield the links of a server."""
    for session in list(server.sessions):
        names = (session.client_name or session.peer_name, session.peer_name)
        yield Connected(names, partial(session.fail, Code.DISCONNECTED, WHY))


def _client(server: TunnelServer, session: ServerSession) -> dict[str, Any]:
    link, datagrams = session.link, session.datagrams
    path = datagrams.carrier.path if datagrams is not None else None
    return {
        "name": session.client_name or session.peer_name,
        "address": session.peer_name,
        "agent": link.peer.agent if link.peer is not None else None,
        "connected_seconds": round(session.clock.seconds() - session.since, 3),
        "round_trip_ms": milliseconds(link.liveness.round_trip),
        "tls": secured(session.identity, session.hedged_with),
        "visitors_go": "by connections of their own" if session.has_data_connections else "by the link",
        "datagrams_go": None if datagrams is None else "by UDP" if path is not None and path.is_open else "by TCP",
        "visitors": session.visitor_count,
        "tunnels": [_tunnel(server, session, backend) for backend in session.backends.values()],
    }


def _tunnel(server: TunnelServer, session: ServerSession, backend: Backend) -> dict[str, Any]:
    request = session.link.tunnels.get(backend.number)
    return {
        "place": str(backend.place),
        "service": request.local if request is not None else "",
        "published": backend.public is not None,
        "ready": backend.is_ready,
        "group": backend.rules.group or None,
        "visitors": server.descriptors.held_for(backend.owner),
        **carried(backend.account),
    }
