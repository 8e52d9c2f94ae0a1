"""Other settings while somebody is being invited: at the host, and at the client that has the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.invited import InvitedTrust
from rtunnel.access.peers.authorized_clients import read_authorized_clients
from rtunnel.access.peers.known_hosts import read_known_hosts
from rtunnel.options.invitations import connect
from rtunnel.options.plugins import rtc_client, rtc_host
from rtunnel.rtc.invitations.hosting import Terms
from rtunnel.rtc.invitations.inviting import invite
from rtunnel.rtc.settings import IdentitySettings
from tests.reload.conftest import Run
from tests.reload.parts import Running
from tests.reverse.net import reactor
from tests.rtc.conftest import rtc
from tests.rtc.invitations.parts import WEB, code_of
from tests.rtc.world import ID, World

__all__ = ["rtc"]

#: What does not concern an invitation.
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "limits": {"drain": "7s"},
    "services": {"host": {"services": [{"name": each, "remote": "127.0.0.1:7"} for each in ("web", "x")]}},
    "signaling": {"reconnect_min": "0.07s"},
    "token": {"token": "a-secret-word"},
    "clients": {"host": {"max_clients": 7}},
    "lists": {},
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("when", ["open", "answered"])
@ensureDeferred
async def test_an_invitation_survives(rtc: World, run: Run, tmp_path: Path, name: str, when: str) -> None:
    tmp_path.chmod(0o700)
    server = rtc.signal()
    host: Running = run(
        rtc_host,
        signal=f"ws://127.0.0.1:{rtc.port_of(server)}",
        stun={"server": ""},
        ice={"interfaces": ["127.0.0.1"]},
        state_dir=str(tmp_path / "host"),
        host={"id": ID, "services": [{"name": "web", "remote": "127.0.0.1:7"}]},
    )
    await rtc.registered(host.service)
    each = await invite(host.service, WEB)
    clients = tmp_path / "clients"
    clients.write_text("")
    changes = {"host": {"authorized_clients": str(clients)}} if name == "lists" else CHANGES[name]
    if when == "open":
        outcome = await host.reload(**changes)
        assert (outcome.failed, outcome.restart) == ([], [])
        if name == "token":
            # Both connections to the signaling server are made anew.
            await rtc.until(lambda: rtc.lines.text.count(" registered\n") == 4, "both to be found again")
    client = rtc.client(server, id="", invitation=code_of(each), identity=IdentitySettings(tmp_path / "client"))
    if when == "answered":
        await rtc.until(lambda: each.stage.value == "answered", "an answer")
        outcome = await host.reload(**changes)
        assert (outcome.failed, outcome.restart) == ([], [])
    await rtc.until(lambda: client._peer is not None and client._peer.is_connected, "a connection", 12)
    assert each.stage.value == "used"
    # The answer may have come a moment before the other list.
    listed = [read_authorized_clients(path) for path in (clients, tmp_path / "host" / "authorized_clients")]
    assert any(each.known(client.sealing.identity.fingerprint) for each in listed)


@ensureDeferred
async def test_a_client_with_a_code_goes_on(
    rtc: World, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other lists do not matter to it before the host has shown that it knows the code."""
    tmp_path.chmod(0o700)
    server = rtc.signal()
    host = rtc.host(server, (await rtc.echo()).port, identity=IdentitySettings(tmp_path / "host"))
    await rtc.registered(host)
    each = await invite(host, Terms())
    monkeypatch.setattr(connect, "NAME", rtc_client.NAME, raising=False)
    monkeypatch.setattr(rtc_client, "prepared_asyncio_reactor", lambda _settings: reactor)
    client = run(
        connect,
        (str(code_of(each)),),
        signal=f"ws://127.0.0.1:{rtc.port_of(server)}",
        stun={"server": ""},
        ice={"interfaces": ["127.0.0.1"]},
        state_dir=str(tmp_path / "client"),
        client={"local": "127.0.0.1:0"},
    )
    known = tmp_path / "known"
    known.write_text("")
    outcome = await client.reload(client={"known_hosts": str(known)})
    assert (outcome.failed, outcome.restart) == ([], [])
    await rtc.connected(client.service)
    assert client.service.settings.id == ID
    assert list(read_known_hosts(known)) == [ID]
    # From then on they do.
    assert (await client.reload(client={"known_hosts": None})).failed == []
    assert not isinstance(client.service.trust, InvitedTrust)
