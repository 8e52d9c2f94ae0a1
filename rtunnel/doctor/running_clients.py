"""What the clients that run on this machine say about their links to one server."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rtunnel.control.ask import NoAnswer, ask
from rtunnel.control.sockets import running


def connected(environ: Mapping[str, str], server: str) -> list[dict[str, Any]]:
    """Return what the clients that have a link to a server say about themselves, and about that link.

    :param environ: the environment of the process.
    :param server: as the operator writes it.
    """
    clients = []
    for path, service, _ in running(environ):
        if service == "rtunnel-client":
            with suppress(NoAnswer):
                found = ask(path)
                link = _link_to(server, found)
                if link is not None and link["connected_seconds"] is not None:
                    tunnels = [_at(link["server"], tunnel) for tunnel in found["tunnels"]]
                    clients.append({**found, "round_trip_ms": link["round_trip_ms"], "tunnels": tunnels})
    return clients


def _link_to(server: str, found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    # A client of an earlier version has one link, and no list.
    links: list[Mapping[str, Any]] = found.get("links", [found])
    return next((each for each in links if each["server"].partition(" at ")[0] == server), None)


def _at(server: str, tunnel: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a tunnel as the link to one server has it."""
    of_link: Mapping[str, Any] = next((each for each in tunnel.get("links", ()) if each["server"] == server), {})
    return {**tunnel, **of_link}
