"""What becomes of the visitors of a service that fails its health check."""

from __future__ import annotations

from rtunnel.reverse.settings import TunnelSettings
from rtunnel.services.health import HealthWatch
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.messages import RULES


def when_unhealthy(tunnel: TunnelSettings, watch: HealthWatch, link: ClientLink) -> str:
    """Return it for the log: ``out of its group until ...``."""
    is_shared = not (tunnel.remote_port or tunnel.host)
    if not tunnel.rules.group and not is_shared:
        return "visitors still come, as it is in no group"
    if RULES not in link.capabilities:
        return "visitors still come, as this server cannot be told"
    where = "out of its group" if tunnel.rules.group else "others go first on the shared port"
    return f"{where} until it passes {watch.settings.rise} in a row"
