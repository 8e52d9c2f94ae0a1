"""Machines with many addresses, of which only one leads to the peer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nat.lab import Namespace, need_root
from tests.process.harness import Twistds, wait_until_open

SIGNAL_PORT = 8080
CLIENT, HOST = "192.0.2.1", "192.0.2.2"

LEADS_NOWHERE = """
table ip firewall {
    chain input {
        type filter hook input priority filter
        iifname "eth0" ip daddr 10.9.0.0/16 drop
        iifname "eth0" ip saddr 10.9.0.0/16 drop
    }
}
"""


@pytest.fixture
def cable() -> Iterator[tuple[Namespace, Namespace]]:
    """Two machines on one cable, each with 31 more addresses that lead nowhere, as those of containers do."""
    need_root()
    client, host = Namespace(), Namespace()
    client.cable("eth0", host, "eth0")
    for machine, net, own in ((client, 1, CLIENT), (host, 2, HOST)):
        machine.ip(
            *(f"addr add 10.9.{net}.{number}/32 dev lo" for number in range(1, 32)), f"addr add {own}/24 dev eth0"
        )
        machine.nft(LEADS_NOWHERE)
    yield client, host
    client.close()
    host.close()


@pytest.mark.parametrize(
    "leads_there",
    [
        pytest.param(True, id="by-the-default-route"),
        # Then it is the last of the 1,024 pairs that works.
        pytest.param(False, id="by-another-route"),
    ],
)
def test_many_addresses_at_both_ends(cable: tuple[Namespace, Namespace], twistd: Twistds, leads_there: bool) -> None:
    there, here = cable
    for machine, net, other in ((there, 1, HOST), (here, 2, CLIENT)):
        machine.ip(f"route add default via {other}" if leads_there else f"route add default dev lo src 10.9.{net}.1")
    common = ("--id", "myhost", "--signal", f"ws://{HOST}:{SIGNAL_PORT}", "--stun-server", "")
    with here.inside():
        twistd("rtc-signal", "--addr", f"{HOST}:{SIGNAL_PORT}")
        wait_until_open(SIGNAL_PORT, host=HOST)
        host = twistd("rtc-host", *common)
    host.wait_for(r"host 'myhost' offers tcp ")
    with there.inside():
        client = twistd("rtc-client", "--local", "127.0.0.1:0", *common)
    path = client.wait_for(r"host 'myhost' cannot be reached|connected to host 'myhost': (.*)$")[1]
    assert path is not None
    assert path.startswith(f"direct, {CLIENT}:")
