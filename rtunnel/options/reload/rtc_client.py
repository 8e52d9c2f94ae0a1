"""How ``rtc-client`` takes other settings while it runs."""

from __future__ import annotations

from typing import Any

from rtunnel.options.reload.part import Part, Reloadable
from rtunnel.options.reload.rtc_ends import look_at_files, shared_parts
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.settings import ClientSettings


def reloadable(client: RtcClient) -> Reloadable:
    """Return what applies other settings to a client."""
    signaling, *others = shared_parts(client)

    def signal(new: Any) -> None:
        settings: ClientSettings = new.settings
        client.set_backoff(settings.signal.reconnect_min, settings.signal.reconnect_max)
        signaling.apply(new)

    async def forwards(new: Any) -> None:
        await client.forwards.use(new.settings.forwards)

    def flows(new: Any) -> None:
        settings: ClientSettings = new.settings
        client.flow_table.max_flows = settings.max_flows
        client.flow_table.set_idle(settings.udp_idle)

    parts = (
        Part(signaling.names, signal),
        *others,
        Part(frozenset({"local", "protocol", "forward"}), forwards),
        Part(frozenset({"max-flows", "udp-idle"}), flows),
    )
    return Reloadable(client, parts, lambda: look_at_files(client))
