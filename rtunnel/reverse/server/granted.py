"""What the clients file says of the visitors of a client: it holds for each of its tunnels, and the client is told."""

from __future__ import annotations

from rtunnel.access.admission import Admission
from rtunnel.access.limits import counted
from rtunnel.access.rules import Network, Rules
from rtunnel.reverse.server.interfaces import Backend

#: How many networks a notice names.
MOST_NAMED = 3


def grant(admission: Admission, backend: Backend) -> None:
    """Let what the clients file says now hold for *backend*. Tell its client what is new, once it is published."""
    granted = admission.limits_of(backend.client_name)
    is_new, backend.granted = granted != backend.granted, granted
    if backend.public is None or backend.group is None:
        return
    if is_new:
        backend.group.limit(backend)
    if backend.is_elsewhere:
        return  # its client hears of it from its own node
    text = in_words(granted, backend.public.protocol)
    if text != backend.told:
        backend.told = text
        text = f"the server limits visitors: {text}" if text else "the server does not limit visitors any more"
        backend.session.link.send_notice(backend.number, text)
        backend.session.flush()


def in_words(limits: Rules, protocol: str) -> str:
    """Return what the clients file says of visitors, as far as it matters to a tunnel of this protocol."""
    each = {"http": "requests", "udp": "flows"}.get(protocol, "connections")
    parts = []
    if limits.connections is not None:
        parts.append(f"{counted(limits.connections, each)} of an address at once")
    if limits.connection_rate is not None and protocol != "http":
        parts.append(f"{counted(limits.connection_rate, f'new {each}')} of an address a second")
    if limits.requests is not None and protocol == "http":
        parts.append(f"{counted(limits.requests, 'requests')} of an address a second")
    if limits.allow:
        parts.append(f"only {_named(limits.allow)} may come")
    if limits.deny:
        parts.append(f"{_named(limits.deny)} may not come")
    return ", ".join(parts)


def _named(networks: tuple[Network, ...]) -> str:
    names = [str(each.network_address if each.prefixlen == each.max_prefixlen else each) for each in networks]
    if len(names) > MOST_NAMED:
        names = [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
