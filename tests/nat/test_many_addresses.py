"""Machines with many addresses, of which only one leads to the peer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.settings import IceSettings
from tests.nat.lab import Namespace, need_root
from tests.patience import PATIENCE
from tests.process.services import Background
from tests.rtc.fakes import log_limiter

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
    """Two machines on one cable, each with 15 more addresses that lead nowhere, as those of containers do."""
    need_root()
    client, host = Namespace(), Namespace()
    client.cable("eth0", host, "eth0")
    for machine, net, own in ((client, 1, CLIENT), (host, 2, HOST)):
        machine.ip(
            *(f"addr add 10.9.{net}.{number}/32 dev lo" for number in range(1, 16)), f"addr add {own}/24 dev eth0"
        )
        machine.nft(LEADS_NOWHERE)
    yield client, host
    client.close()
    host.close()


class Agent(IceAgent):
    """One that counts the checks that it begins.

    :ivar begun: how many; those among them that aioice by itself would have begun.
    """

    def __init__(self, controlling: bool) -> None:
        super().__init__(IceSettings(), controlling, lambda _: None, log_limiter())
        self.begun = self.begun_by_aioice = 0

    def _check_periodic(self) -> bool:
        self.begun += 1
        self.begun_by_aioice += asyncio.current_task() is not self._pacing
        return super()._check_periodic()


async def connect(client: Agent, host: Agent, machines: Sequence[Namespace]) -> str:
    """Find a path; where it leads."""
    for end, machine in zip((client, host), machines, strict=True):
        # All sockets are made here; later on it does not matter where this thread is.
        with machine.inside():
            await end.gather()
    try:
        for end, other in ((client, host), (host, client)):
            for candidate in other.local_candidates:
                await end.take_candidate(candidate.to_sdp())
            end.remote_username, end.remote_password = other.local_username, other.local_password
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(client.connect(), host.connect())
        return client.path
    finally:
        await client.close()
        await host.close()


@pytest.mark.parametrize("leads_there", [True, False], ids=["by-the-default-route", "by-another-route"])
def test_many_addresses_at_both_ends(cable: tuple[Namespace, Namespace], leads_there: bool) -> None:
    for machine, net, other in ((cable[0], 1, HOST), (cable[1], 2, CLIENT)):
        machine.ip(f"route add default via {other}" if leads_there else f"route add default dev lo src 10.9.{net}.1")
    client, host = Agent(controlling=True), Agent(controlling=False)
    path = Background(lambda: asyncio.run(connect(client, host, cable))).join()
    assert str(path).startswith(f"direct, {CLIENT}:")
    if leads_there:
        # Beside the first of 256 pairs, those that are begun while its answer is on its way.
        assert client.begun < 60
    else:
        # It is the last pair. However busy the machine is, most checks do not wait for aioice.
        assert client.begun > 200
        assert client.begun_by_aioice < client.begun * 2 / 3
