"""Who may come to a host name: the rules that need no more than the visitor's address."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from rtunnel.access.rules import Rules


def why_not(rules: Rules, address: Any, connections: Callable[[], int]) -> str:
    """Return why a visitor may not come, for a log; empty if he may.

    :param address: the visitor's. One that is no IP address is in no network.
    :param connections: returns how many this address has at the tunnel without this one.
    """
    if rules.allow or rules.deny:
        host = getattr(address, "host", None)
        ips = [ip_address(host.partition("%")[0])] if isinstance(host, str) else []
        ips = [getattr(ip, "ipv4_mapped", None) or ip for ip in ips]
        if any(ip in network for ip in ips for network in rules.deny):
            return "its address is denied"
        if rules.allow and not any(ip in network for ip in ips for network in rules.allow):
            return "its address is not among those allowed"
    if rules.connections is not None and connections() >= rules.connections:
        return f"its address has {rules.connections} connections, the limit"
    return ""
