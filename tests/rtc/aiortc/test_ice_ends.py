"""ICE agents that are closed at every moment."""

from __future__ import annotations

import asyncio
import errno
import re
from functools import partial

import pytest
import pytest_twisted
from aioice import Candidate, stun

from rtunnel.rtc.aiortc import addresses as local, ice
from rtunnel.rtc.aiortc.turn import explain
from rtunnel.rtc.settings import IceSettings, TurnServer
from tests.ports import free_port
from tests.reverse.net import HOST, until
from tests.rtc.aiortc.ice_parts import Agents, Silent, agents, datagram, run, silent, turn

__all__ = ["agents", "silent"]


@pytest_twisted.ensureDeferred
async def test_closed_before_anything(agents: Agents) -> None:
    await run(agents.make().close())


@pytest.mark.parametrize("steps", range(8))
@pytest_twisted.ensureDeferred
async def test_closed_while_sockets_are_bound(agents: Agents, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_all_addresses", lambda: iter([("lo", f"127.0.0.{number}") for number in range(1, 6)]))
    agent = agents.make(IceSettings(interfaces=("lo",)))
    gathering = agents.start(agent.gather())
    for _ in range(steps):
        await turn()
    gathering.cancel()
    await run(asyncio.wait([gathering]))
    await run(agent.close())


@pytest_twisted.ensureDeferred
async def test_closed_while_servers_are_asked(agents: Agents, silent: Silent) -> None:
    server = TurnServer(HOST, silent.port)
    agent = agents.make(IceSettings((HOST, silent.port), (server, server), "u", "p", interfaces=(HOST,)))
    await agents.gather(agent)
    await datagram(silent.socket)
    await run(agent.close())
    assert agents.found[agent] == []


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_of_no_use_is_not_said_for_each_peer(agents: Agents) -> None:
    server = TurnServer(HOST, free_port(), "tcp")
    for _ in range(3):
        agent = agents.make(IceSettings(None, (server,), "u", "p", interfaces=(HOST,)))
        await agents.gather(agent)
        await until(partial(agents.found[agent].__contains__, None), "the end of candidates")
    assert agents.log.text().count(f"TURN server {server} cannot be used") == 1


def test_why_the_system_does_not_let_us_reach_a_server() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('192.0.2.1', 3478)")
    assert explain(refused) == "connection refused"
    assert explain(TimeoutError()) == "no answer"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            (401, "Unauthorized"),
            r"STUN transaction failed \(401 - Unauthorized\); check --turn-user and --turn-credential, ",
        ),
        ((508, "No capacity"), r"STUN transaction failed \(508 - No capacity\)\n"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_why_a_server_is_of_no_use(
    agents: Agents, monkeypatch: pytest.MonkeyPatch, error: tuple[int, str], why: str
) -> None:
    async def refused(*_: object, **__: object) -> None:
        response = stun.Message(stun.Method.ALLOCATE, stun.Class.ERROR)
        response.attributes["ERROR-CODE"] = error
        raise stun.TransactionFailed(response)

    monkeypatch.setattr(ice, "create_turn_endpoint", refused)
    agent = agents.make(IceSettings(None, (TurnServer(HOST, 9),), "u", "p", interfaces=(HOST,)))
    await agents.gather(agent)
    await until(partial(agents.found[agent].__contains__, None), "the end of candidates")
    assert re.search(f"cannot be used: {why}", agents.log.text())


@pytest_twisted.ensureDeferred
async def test_closed_while_names_are_looked_up(agents: Agents) -> None:
    agent = agents.make(IceSettings(interfaces=(HOST,), stun_server=("localhost", 9)))
    await agents.gather(agent)
    await turn()
    await run(agent.close())


@pytest_twisted.ensureDeferred
async def test_closed_while_paths_are_checked(agents: Agents, silent: Silent) -> None:
    agent = agents.make(controlling=True)
    await agents.gather(agent)
    agent.remote_username, agent.remote_password = "abcd", "x" * 22
    for _ in range(3):
        await agent.add_remote_candidate(Candidate("1", 1, "udp", 1, HOST, silent.port, "host"))
    connecting = agents.start(agent.connect())
    await datagram(silent.socket)
    await run(agent.close())
    await until(connecting.done, "the end of the checks")
    assert isinstance(connecting.exception(), ConnectionError)


@pytest_twisted.ensureDeferred
async def test_closed_twice_at_once(agents: Agents) -> None:
    one, _ = await agents.pair()
    first, second = agents.start(one.close()), agents.start(one.close())
    await until(lambda: first.done() and second.done(), "both")
    first.result()
    second.result()
