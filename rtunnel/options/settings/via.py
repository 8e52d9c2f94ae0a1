"""The proxy through which a client reaches its server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rtunnel.addresses import DialAddress
from rtunnel.coercions import text
from rtunnel.endpoint_strings import split_description
from rtunnel.options.settings.sources import Resolved
from rtunnel.proxies import Proxy, proxy_of_environment
from rtunnel.reverse.settings import TunnelSettings

#: The value that stands for the proxy that the environment names.
ENVIRONMENT = "env"


def via(value: object) -> Proxy | str:
    """Read the URL of a proxy, or :data:`ENVIRONMENT`.

    :raises ConfigError: it is neither. The message shows no password.
    """
    written = text(value)
    return ENVIRONMENT if written == ENVIRONMENT else Proxy.parse(written)


def decide_via(resolved: Resolved, environ: Mapping[str, str], tunnels: Sequence[TunnelSettings]) -> Proxy | None:
    """Return the proxy through which the server is reached; None: none.

    :param environ: the process's environment.
    :raises ConfigError: the environment names one that cannot be used, or the settings cannot go with one.
    """
    found: Proxy | str | None = resolved.values["via"]
    servers: Sequence[DialAddress] = resolved.values["server"]
    if found == ENVIRONMENT:
        named = [proxy_of_environment(environ, server.host or "") for server in servers]
        if any(each != named[0] for each in named):
            raise resolved.error("via", "the environment names a proxy for some of the servers only; name it here")
        found = named[0]
    if not isinstance(found, Proxy):
        return None
    for server in servers:
        if server.host is None or split_description(server.description)[1]:
            raise resolved.error("via", f"a proxy needs --server as host and port, and it is '{server}'")
    if resolved.values["data-plane"] == "mux" and any(tunnel.protocol == "udp" for tunnel in tunnels):
        raise resolved.error("data-plane", "mux leaves UDP tunnels no way through the proxy of --via; write auto")
    return found
