"""What ``rtc-host`` does now (docs/control.rst)."""

from __future__ import annotations

from typing import Any

from rtunnel.control.parts import answering, resources
from rtunnel.control.rtc_parts import peer_connection, signaling
from rtunnel.rtc.host import RtcHost


def look(host: RtcHost) -> dict[str, Any]:
    """Return what a host does."""
    services = [
        {
            "name": service.settings.name,
            "protocol": service.settings.protocol,
            "service": str(service.settings.remote),
            **answering(service.watch),
        }
        for service in host.offered.values()
    ]
    problems = [
        f"the service {each['service']} does not answer: {each['problem']}" for each in services if each["problem"]
    ]
    if not host.signaling.up:
        problems.insert(0, f"no client can find this host: {signaling(host.signaling)['problem']}")
    return {
        "ready": host.signaling.up and not host.is_stopping,
        "problems": problems,
        "id": host.settings.id,
        "signaling": signaling(host.signaling),
        **resources(host, host.memory),
        "services": services,
        "peers": [peer_connection(peer) for peer in host.peers],
    }
