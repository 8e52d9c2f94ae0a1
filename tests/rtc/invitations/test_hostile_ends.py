"""Host and client whose signaling server is hostile: it changes what they say to each other about an invitation.

Whatever it does, both ends say that something is wrong, nothing is carried, and nobody is written down.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from rtunnel.access.peers.authorized_clients import read_authorized_clients
from rtunnel.rtc.settings import IdentitySettings
from rtunnel.wire.invitations.exchange import HOST as ROLE_HOST, Half
from rtunnel.wire.invitations.messages import Answer, answer_payload
from tests.rtc.invitations.parts import wrong
from tests.rtc.invitations.test_ends import Ends, invited
from tests.rtc.world import ID, World

Message = dict[str, Any]


@pytest.fixture
def ends(rtc: World, tmp_path: Path) -> Ends:
    tmp_path.chmod(0o700)
    return Ends(rtc, tmp_path)


def tamper(server: Any, change: Callable[[Message], None]) -> None:
    """From now on the server changes each message before it passes it on."""
    receive = server.switchboard.receive

    def changed(party: Any, text: bytes) -> None:
        message = json.loads(text)
        change(message)
        receive(party, json.dumps(message).encode())

    server.switchboard.receive = changed


async def nothing_came_of_it(ends: Ends) -> str:
    """Why the client ends."""
    await ends.rtc.until(lambda: ends.failures, "the end of the client")
    [why] = ends.failures
    assert why.endswith("ask for a new code")
    assert read_authorized_clients(ends.clients).by_fingerprint == {}
    assert not (ends.place / "anna" / "known_hosts").exists()
    assert ends.echo.peers == []
    return why


@pytest_twisted.ensureDeferred
async def test_it_leads_to_a_host_of_its_own(ends: Ends) -> None:
    rtc = ends.rtc
    host = await ends.host()
    each, code = await invited(host)
    castle = rtc.host(ends.server, ends.echo.port, id="castle", identity=IdentitySettings(ends.place / "castle"))
    await rtc.registered(castle)

    def change(message: Message) -> None:
        if message["type"] == "answer" and "host" in message["payload"]:
            message["payload"]["host"] = "castle"

    tamper(ends.server, change)
    ends.client("anna", code)
    # That host does not know the code, and is told so; the client has no other.
    assert "the code of the invitation is wrong" in await nothing_came_of_it(ends)
    assert each.stage.value == "answered"


@pytest_twisted.ensureDeferred
async def test_it_guesses_as_the_host(ends: Ends) -> None:
    rtc = ends.rtc
    host = await ends.host()
    each, code = await invited(host)
    half = Half(wrong(code), ROLE_HOST)

    def change(message: Message) -> None:
        if message["type"] == "answer" and "host" in message["payload"]:
            message["payload"] = answer_payload(Answer(half.message, ID))

    tamper(ends.server, change)
    ends.client("anna", code)
    assert "the code of the invitation is wrong" in await nothing_came_of_it(ends)
    await rtc.until(lambda: each.is_over, "an invitation that is spent")
    assert each.stage.value == "failed"


@pytest.mark.parametrize("key", ["seal", "invitation"])
@pytest_twisted.ensureDeferred
async def test_it_strips_the_offer(ends: Ends, key: str) -> None:
    rtc = ends.rtc
    host = await ends.host()
    each, code = await invited(host)

    def change(message: Message) -> None:
        if message["type"] == "offer":
            message["payload"].get("rtunnel", {}).pop(key, None)

    tamper(ends.server, change)
    ends.client("anna", code)
    why = await nothing_came_of_it(ends)
    # Without the number the host sees a client that it does not know.
    assert ("does not announce" if key == "seal" else "the host does not know this client") in why
    assert not each.is_over
    await rtc.lines.wait_for("client .* (is refused|lost): ")


@pytest_twisted.ensureDeferred
async def test_it_strips_the_answer(ends: Ends) -> None:
    host = await ends.host()
    _, code = await invited(host)

    def change(message: Message) -> None:
        if message["type"] == "answer":
            message["payload"].get("rtunnel", {}).pop("seal", None)

    tamper(ends.server, change)
    ends.client("anna", code)
    assert "only such hosts are accepted here" in await nothing_came_of_it(ends)


@pytest_twisted.ensureDeferred
async def test_it_names_another_invitation(ends: Ends) -> None:
    """Of two that are open, each is for the person who has its code."""
    rtc = ends.rtc
    host = await ends.host()
    first, code = await invited(host)
    second, other = await invited(host)
    assert (first.number, second.number) == (1, 2)

    def change(message: Message) -> None:
        if message["type"] == "offer" and "invitation" in message["payload"].get("rtunnel", {}):
            message["payload"]["rtunnel"]["invitation"] = "2"

    tamper(ends.server, change)
    ends.client("anna", code)
    await nothing_came_of_it(ends)
    assert other != code
    # It was not answered, so it is not spent.
    assert second.stage.value == "waiting"
    assert first.stage.value == "answered"
    await rtc.lines.wait_for("client .* lost: ")


@pytest_twisted.ensureDeferred
async def test_it_says_that_all_is_over(ends: Ends) -> None:
    host = await ends.host()
    each, code = await invited(host)

    def change(message: Message) -> None:
        if message["type"] == "offer":
            message["target_id"] = "nobody"

    tamper(ends.server, change)
    client = ends.client("anna", code)
    # An error about somebody else is not believed; the host's answer does not come, and that is the end.
    await ends.rtc.until(lambda: client.signaling.up, "a client at the server")
    assert client.invited is not None
    client.invited._redeeming._too_late()
    assert "the host of invitation 1 does not answer" in await nothing_came_of_it(ends)
    assert each.stage.value == "waiting"
