"""Host and client in one process: from the code to a connection that both remember."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from rtunnel.access.peers.authorized_clients import read_authorized_clients
from rtunnel.access.peers.known_hosts import read_known_hosts
from rtunnel.addresses import DialAddress
from rtunnel.control.actions.invite import Inviting
from rtunnel.control.rtc import host as host_view
from rtunnel.errors import ConfigError
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.invitations.hosting import OpenInvitation, Terms
from rtunnel.rtc.invitations.inviting import invite
from rtunnel.rtc.settings import IdentitySettings, ServiceSettings
from rtunnel.wire.invitations.code import InvitationCode, parse_code
from tests.leftovers import LoggedError
from tests.reverse.net import HOST
from tests.rtc.invitations.parts import WEB, code_of, wrong
from tests.rtc.world import ID, World


def web(port: int) -> ServiceSettings:
    return ServiceSettings("web", DialAddress.parse(f"{HOST}:{port}"))


class Ends:
    """A host that has a place for what it knows, and clients that have one each."""

    def __init__(self, rtc: World, place: Path) -> None:
        self.rtc = rtc
        self.place = place
        self.server = rtc.signal()
        self.failures: list[str] = []

    async def host(self, **settings: Any) -> RtcHost:
        self.echo = await self.rtc.echo()
        host = self.rtc.host(
            self.server, web(self.echo.port), identity=IdentitySettings(self.place / "host"), **settings
        )
        await self.rtc.registered(host)
        return host

    def client(self, name: str, code: InvitationCode | None, **settings: Any) -> RtcClient:
        if code is not None:
            settings.update(id="", invitation=code)
        client = self.rtc.client(self.server, identity=IdentitySettings(self.place / name), **settings)
        if client.invited is not None:
            client.invited.on_failure = self.failures.append
        return client

    async def echoes(self, client: RtcClient) -> None:
        visitor = await self.rtc.visitor(client)
        visitor.send(b"hello")
        await visitor.has(b"hello")

    @property
    def clients(self) -> Path:
        return self.place / "host" / "authorized_clients"


@pytest.fixture
def ends(rtc: World, tmp_path: Path) -> Ends:
    tmp_path.chmod(0o700)
    return Ends(rtc, tmp_path)


def is_closed(host: RtcHost) -> bool:
    return host.sealing.trust.is_closed


async def invited(host: RtcHost) -> tuple[OpenInvitation, InvitationCode]:
    each = await invite(host, WEB)
    return each, code_of(each)


@pytest_twisted.ensureDeferred
async def test_a_code_is_all_it_takes(ends: Ends) -> None:
    rtc = ends.rtc
    host = await ends.host()
    assert not is_closed(host)
    each, code = await invited(host)
    assert is_closed(host)
    client = ends.client("anna", code)
    await rtc.connected(client)
    await ends.echoes(client)
    assert each.stage.value == "used"
    assert each.client == "Anna"
    clients = read_authorized_clients(ends.clients)
    known = clients.known(client.sealing.identity.fingerprint)
    assert known is not None
    assert (known[0], known[1].services) == ("Anna", frozenset({"web"}))
    assert list(read_known_hosts(ends.place / "anna" / "known_hosts")) == [ID]
    assert client.settings.id == ID
    # It comes back without a code, in the same process and in another.
    assert client.peer is not None
    client.peer.give_up("a test")
    await rtc.connected(client)
    await ends.echoes(client)
    await rtc.stop(client)
    again = ends.client("anna", None)
    assert again.sealing.trust.is_closed
    await rtc.connected(again)
    await ends.echoes(again)
    assert ends.failures == []


@pytest_twisted.ensureDeferred
async def test_a_wrong_code_is_said_at_both_ends(ends: Ends) -> None:
    rtc = ends.rtc
    host = await ends.host()
    each, code = await invited(host)
    client = ends.client("mallory", wrong(code))
    await rtc.until(lambda: ends.failures, "a failure")
    [why] = ends.failures
    assert re.fullmatch(r"invitation 1 is spent: .*the code of the invitation is wrong; ask for a new code", why)
    await rtc.until(lambda: each.is_over, "an invitation that is over")
    assert each.stage.value == "failed"
    await rtc.lines.wait_for("client .* lost: .*the code of the invitation is wrong")
    assert read_authorized_clients(ends.clients).by_fingerprint == {}
    assert not (ends.place / "mallory" / "known_hosts").exists()
    assert client.peer is None
    assert ends.echo.peers == []
    # The right one comes too late.
    late = ends.client("anna", code)
    await rtc.until(lambda: len(ends.failures) == 2, "another failure")
    assert ends.failures[1].startswith("there is no invitation 1: ")
    assert late.peer is None


@pytest_twisted.ensureDeferred
async def test_whoever_is_not_invited_stays_outside(ends: Ends) -> None:
    """Also if he names the invitation, and although the right one is just on its way."""
    rtc = ends.rtc
    host = await ends.host()
    each, code = await invited(host)
    stranger = ends.client("stranger", None)
    await rtc.lines.wait_for("host 'cottage' .*: .*the host does not know this client")
    assert stranger.peer is None or not stranger.peer.is_connected
    assert each.stage.value == "waiting"
    client = ends.client("anna", code)
    await rtc.connected(client)
    assert each.stage.value == "used"


@pytest_twisted.ensureDeferred
async def test_clients_that_are_not_listed_are_cut_by_the_first_invitation(ends: Ends) -> None:
    rtc = ends.rtc
    host = await ends.host()
    before = ends.client("before", None)
    await rtc.connected(before)
    await invited(host)
    await rtc.lines.wait_for("from now on only the clients in .*authorized_clients may connect")
    await rtc.lines.wait_for("client .* lost: .*the host does not know this client")


@pytest_twisted.ensureDeferred
async def test_a_client_that_is_known_already_keeps_its_rights(ends: Ends) -> None:
    rtc = ends.rtc
    host = await ends.host()
    for _ in range(2):
        _, code = await invited(host)
        client = ends.client("anna", code)
        await rtc.connected(client)
        await rtc.stop(client)
    assert len(read_authorized_clients(ends.clients).by_fingerprint) == 1
    await rtc.lines.wait_for("invitation 1: this client is Anna in .* already, and its rights there stay as they are")


@pytest_twisted.ensureDeferred
async def test_a_client_that_cannot_be_written_down(
    ends: Ends, flush_logged_errors: Callable[[type[LoggedError]], list[Any]]
) -> None:
    """The code is spent, nobody is let in, and whoever invites is not told that somebody was."""
    rtc = ends.rtc
    host = await ends.host()
    each, code = await invited(host)
    ends.clients.write_text("[nobody]\n")
    client = ends.client("anna", code)
    await rtc.lines.wait_for("host 'cottage' .*: the host refuses this client: the host does not know this client")
    [error] = flush_logged_errors(LoggedError)
    assert "invitation 1: the client cannot be written down: " in str(error.value)
    assert (each.stage.value, each.client) == ("used", "")
    found = await Inviting(host).look({"number": 1, "stage": "answered"})
    assert found["client"] is None
    assert not ends.echo.peers
    # The host has shown that it knows the code, so the client can wait until that is mended.
    ends.clients.write_text(f"anna: {{fingerprint: {client.sealing.identity.fingerprint}}}\n")
    await rtc.connected(client)
    assert ends.failures == []


@pytest_twisted.ensureDeferred
async def test_two_with_the_same_name(ends: Ends) -> None:
    rtc = ends.rtc
    host = await ends.host()
    called = []
    for name in ("anna", "other"):
        each, code = await invited(host)
        await rtc.connected(ends.client(name, code))
        called.append(each.client)
    assert called == ["Anna", "Anna-2"]
    assert await rtc.lines.wait_for("invitation 1: Anna-2 is known from now on, with service web")


@pytest_twisted.ensureDeferred
async def test_a_host_that_the_client_knows_by_another_key(ends: Ends) -> None:
    """The code proves who it is for now; the file is the user's business."""
    rtc = ends.rtc
    host = await ends.host()
    _, code = await invited(host)
    folder = ends.place / "anna"
    folder.mkdir(mode=0o700)
    (folder / "known_hosts").write_text(f"{ID}: {'ab' * 32}\n")
    (folder / "known_hosts").chmod(0o600)
    client = ends.client("anna", code)
    await rtc.connected(client)
    await rtc.lines.wait_for(
        "this connection is safe, but the host is not known at the next start: .*another fingerprint"
    )


@pytest_twisted.ensureDeferred
async def test_a_code_at_the_start(ends: Ends) -> None:
    rtc = ends.rtc
    await ends.host(invite=True)
    await rtc.lines.wait_for(r"is good for 10 minutes and one try; the other person types: rtunnel connect ")
    code = re.search(r"rtunnel connect (\S+) --local 127.0.0.1:8080 --signal ws://127.0.0.1:\d+\n", rtc.lines.text)
    assert code is not None
    client = ends.client("anna", parse_code(code[1]))
    await rtc.connected(client)
    await ends.echoes(client)
    assert re.search(r"invitation 1: invited-\w{5} is known from now on, with all services", rtc.lines.text)


@pytest_twisted.ensureDeferred
async def test_hosts_that_cannot_invite(ends: Ends) -> None:
    host = ends.rtc.host(ends.server, 1)
    with pytest.raises(ConfigError, match="has no place to write down whom it knows; give it --state-dir"):
        await invite(host, Terms())


@pytest_twisted.ensureDeferred
async def test_a_host_with_a_ca_gives_certificates(ends: Ends) -> None:
    host = ends.rtc.host(ends.server, 1)
    host.settings = replace(host.settings, identity=IdentitySettings(ends.place, ca=ends.place / "ca.crt"))
    with pytest.raises(ConfigError, match="this host trusts a CA"):
        await invite(host, Terms())
    assert host.invitations.open == []


@pytest_twisted.ensureDeferred
async def test_the_actions(ends: Ends) -> None:
    rtc = ends.rtc
    host = await ends.host()
    inviting = Inviting(host)
    for asked, why in (
        ({"services": "web"}, "'services' must be a list of names"),
        ({"services": [""]}, "'services' must be a list of names"),
        ({"services": ["wep"]}, "this host does not offer the service 'wep'; did you mean 'web'?"),
        ({"name": 7}, "'name' must be a text"),
        ({"minutes": 7}, "the key 'minutes' is unknown; known: 'services', 'name'"),
    ):
        with pytest.raises(ConfigError) as caught:
            await inviting.invite(asked)
        assert str(caught.value) == why
    found = await inviting.invite({"services": ["web"], "name": "Anna"})
    [shown] = host_view.look(host)["invitations"]
    until = datetime.fromisoformat(shown.pop("until"))
    assert timedelta(seconds=0) < until - datetime.now(UTC) <= timedelta(seconds=600)
    web = {"number": 1, "services": ["web"], "for": "Anna"}
    assert shown == web | {"stage": "waiting", "spent": False, "client": None}
    assert found["code"] not in json.dumps(host_view.look(host))
    assert found["was_open"] is True
    assert (found["number"], found["stage"], found["host"], found["terms"]) == (1, "waiting", ID, "service web")
    assert 590 < found["seconds_left"] <= 600
    assert found["command"].startswith(f"rtunnel connect {found['code']} --local 127.0.0.1:8080 --signal ws://")
    client = ends.client("anna", parse_code(found["code"]))
    stages = ["waiting"]
    while stages[-1] not in ("used", "failed"):
        now = await inviting.look({"number": 1, "stage": stages[-1]})
        stages.append(now["stage"])
    assert stages in (["waiting", "answered", "used"], ["waiting", "used"])
    assert (now["client"], now["seconds_left"]) == ("Anna", 0.0)
    await rtc.connected(client)
    second = await inviting.invite({})
    used, shown = host_view.look(host)["invitations"]
    assert used == web | {"stage": "used", "spent": True, "until": None, "client": "Anna"}
    assert (shown["services"], shown["for"], shown["stage"], shown["spent"]) == (None, None, "waiting", False)
    assert second["was_open"] is False
    assert inviting.withdraw({"number": second["number"]})["stage"] == "withdrawn"
    for asked, why in (
        ({"number": second["number"]}, f"invitation {second['number']} is over: withdrawn"),
        ({"number": 99}, "there is no invitation 99"),
        ({"number": "1"}, "'number' must be the number of an invitation"),
    ):
        with pytest.raises(ConfigError) as caught:
            inviting.withdraw(asked)
        assert str(caught.value) == why
