"""The key ``proxy-protocol`` of an entry: whether the service gets a PROXY header, and of which version."""

from __future__ import annotations

from dataclasses import replace

from rtunnel.coercions import shown
from rtunnel.errors import ConfigError
from rtunnel.options.settings.entries import Entry
from rtunnel.reverse.settings import TunnelSettings

KEY = "proxy_protocol"
#: Why there is none where requests are passed on one by one.
OF_REQUESTS = (
    "is about connections, but one connection to this service carries the requests of several visitors; leave it out, "
    "and let the service read their addresses in X-Forwarded-For"
)


def with_proxy_protocol(entry: Entry, tunnels: tuple[TunnelSettings, ...]) -> tuple[TunnelSettings, ...]:
    """Read the key of an entry, and return its *tunnels* with that.

    :raises ConfigError: the value is wrong, or not for tunnels of this protocol.
    """
    if KEY not in entry:
        return tunnels
    version = entry.read(KEY, _version)
    protocol = tunnels[0].protocol
    if protocol == "http":
        raise entry.error(KEY, OF_REQUESTS)
    if protocol == "udp" and version == "v1":
        raise entry.error(KEY, "version 1 is for TCP only; write v2")
    return tuple(replace(tunnel, proxy_protocol=version) for tunnel in tunnels)


def _version(written: object) -> str:
    if written not in ("v1", "v2"):
        raise ConfigError(f"{shown(written)} is not a version of the PROXY protocol; write v1 or v2")
    return str(written)
