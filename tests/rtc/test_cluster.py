"""Host and client at different signaling servers, which are one cluster."""

from __future__ import annotations

import pytest_twisted

from rtunnel.cluster.memory import MemoryDirectory, Shared
from tests.reverse.net import reactor
from tests.rtc.world import World


@pytest_twisted.ensureDeferred
async def test_a_tunnel_across_nodes_and_after_one_has_died(rtc: World) -> None:
    shared = Shared()
    one, two = (rtc.signal(directory=MemoryDirectory(reactor, shared)) for _ in range(2))
    local = await rtc.echo()
    host = rtc.host(one, local.port, others=[two])
    await rtc.registered(host)
    client = rtc.client(two, others=[one])
    visitor = await rtc.visitor(client)
    visitor.send(b"across")
    await rtc.until(lambda: visitor.received == b"across", "an echo")
    assert (one.switchboard.hosts, two.switchboard.clients) == (1, 1)
    # Its connections end, and nobody tells the directory: its lease has to end by itself.
    shared.parted.add(one.directory.node)
    await rtc.stop(one)
    await rtc.until(lambda: two.switchboard.hosts == 1, "the host at the other node")
    visitor.send(b" and on")
    await rtc.until(lambda: visitor.received == b"across and on", "the connection")
    await rtc.stop(client)
    late = await rtc.visitor(rtc.client(two))
    late.send(b"late")
    await rtc.until(lambda: late.received == b"late", "an echo")
