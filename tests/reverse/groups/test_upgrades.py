"""A server takes the place of another, where visitors wait for a group of which nobody is there."""

from __future__ import annotations

import os
import socket

from pytest_twisted import ensureDeferred

from rtunnel.options.upgrade.server import ServerSuccession
from rtunnel.relay.inheritance import inheritance
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.groups.parts import GROUP, join, publish
from tests.reverse.net import NEW_CONN, until
from tests.reverse.test_held import LAPTOP, PHONE, TOKENS, lose
from tests.reverse.world import World


@ensureDeferred
async def test_any_member_may_come_back(world: World) -> None:
    before, port = world.server(hold=PATIENCE, admission=TOKENS), free_port()
    link = await join(world, before, **LAPTOP)
    await publish(link, port, GROUP)
    await lose(before, link)
    state = ServerSuccession(before).lasting()
    [handed] = before.ports.handed()
    inheritance.fill([handed.name], [socket.socket(fileno=os.dup(handed.descriptor))])
    handed.hand_over()
    await before.ports.stop_listening()
    after = world.server(hold=PATIENCE, admission=TOKENS)
    ServerSuccession(after).revive(state)
    visitor = await world.visitor(port)
    await until(lambda: len(after.visitors) == 1, "he waits")
    other = await join(world, after, **PHONE)
    await publish(other, port, GROUP)
    await other.take(NEW_CONN)
    assert not visitor.over
