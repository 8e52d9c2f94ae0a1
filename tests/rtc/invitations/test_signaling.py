"""Invitations at a signaling server that passes messages on: from the invitation to what both ends can confirm."""

from __future__ import annotations

import re

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from rtunnel.errors import ConfigError
from rtunnel.rtc.invitations import hosting
from rtunnel.rtc.invitations.hosting import FAILURES_AT_ONCE, MAX_OPEN, Terms
from rtunnel.wire.invitations.code import InvitationCode, parse_code
from rtunnel.wire.invitations.exchange import CLIENT, Half
from rtunnel.wire.invitations.invitation import CONNECTS_WITHIN, LASTS
from rtunnel.wire.invitations.messages import offer_payload
from rtunnel.wire.webrtc.signaling import ANSWER, OFFER, Signal
from tests.reverse.net import reactor, turns
from tests.rtc.invitations.parts import ADMITTED, CONTEXT, WEB, Invited, code_of, invitations, wrong
from tests.rtc.signaling.reference_server import ReferenceSignalServer
from tests.rtc.world import ID, World


def ids(server) -> set[str]:
    return {party.id for party in server.switchboard.registered}


@pytest_twisted.ensureDeferred
async def test_a_code_is_redeemed(rtc: World) -> None:
    server = rtc.signal()
    host = invitations(rtc, server)
    each = await host.invite(WEB)
    code = code_of(each)
    assert re.fullmatch("1-[a-z]+-[a-z]+", str(code))
    assert ids(server) == {"rtunnel-invite-1"}
    assert host.find(1) is each
    assert host.answered("1") is None
    await rtc.lines.wait_for("invitation 1 is open: service web\n")
    client = Invited(rtc, server, parse_code(str(code).upper()))
    await rtc.until(lambda: client.told, "an answer")
    assert client.told == ID
    assert host.answered("1") is each
    assert ADMITTED[id(host)] == []
    assert client.confirms(each) == (True, True)
    assert ADMITTED[id(host)] == [(each, bytes(range(32, 64)).hex())]
    assert each.stage.value == "used"
    assert each.terms == WEB
    await rtc.lines.wait_for("invitation 1 is used\n")
    await rtc.until(lambda: "rtunnel-invite-1" not in ids(server), "an ID that is free again")
    assert host.open == []
    assert host.answered("1") is None
    # The words are a secret of two people.
    assert not any(word in rtc.lines.text for word in code.words)


@pytest_twisted.ensureDeferred
async def test_a_wrong_code(rtc: World) -> None:
    server = rtc.signal()
    host = invitations(rtc, server)
    each = await host.invite(WEB)
    client = Invited(rtc, server, wrong(code_of(each)))
    await rtc.until(lambda: client.told, "an answer")
    assert client.confirms(each) == (False, False)
    assert ADMITTED[id(host)] == []
    assert each.stage.value == "failed"
    said = "invitation 1 is spent: somebody has tried a wrong code; nobody was let in; make a new one"
    await rtc.lines.wait_for(said)
    assert rtc.lines.text.count(said) == 1
    await rtc.until(lambda: ids(server) == {"client"}, "an ID that is free again")
    late = Invited(rtc, server, code_of(each), "late")
    await rtc.until(lambda: late.told, "a refusal")
    assert late.told == (
        "there is no invitation 1: it was used, withdrawn or is older than 10 minutes, or the host is at another "
        "signaling server (--signal); ask for a new code"
    )


@pytest_twisted.ensureDeferred
async def test_of_two_clients_one_is_answered(rtc: World) -> None:
    server = rtc.signal()
    host = invitations(rtc, server)
    each = await host.invite(WEB)
    clients = [Invited(rtc, server, code_of(each), f"client {number}") for number in range(2)]
    await rtc.until(lambda: all(client.told for client in clients), "an answer and a refusal")
    [first] = [client for client in clients if client.confirmation is not None]
    [second] = [client for client in clients if client.confirmation is None]
    assert second.told.startswith(("there is no invitation 1:", "the signaling server does not pass the code on: "))
    assert first.confirms(each) == (True, True)


@pytest_twisted.ensureDeferred
async def test_of_two_connections_that_name_it_the_first_decides(rtc: World) -> None:
    server = rtc.signal()
    host = invitations(rtc, server)
    each = await host.invite(WEB)
    client = Invited(rtc, server, code_of(each))
    await rtc.until(lambda: client.told == ID, "an answer")
    first, second = each.confirmation, each.confirmation
    assert first is not None
    assert second is not None
    assert client.confirmation is not None
    assert not first.check(bytes(32), CONTEXT)
    assert each.stage.value == "failed"
    assert not second.check(client.confirmation.mine(CONTEXT), CONTEXT)
    assert ADMITTED[id(host)] == []


@pytest_twisted.ensureDeferred
async def test_messages_without_sense_cost_nothing(rtc: World) -> None:
    server = rtc.signal()
    host = invitations(rtc, server)
    each = await host.invite(WEB)
    client = Invited(rtc, server, InvitationCode(9, ("guitarist", "orca")), "nosy")
    await rtc.until(lambda: client.told, "a refusal")
    for payload in (None, {"pake": 1}, {"pake": "41" + "00" * 32}, {"sdp": {"type": "offer", "sdp": "v=0"}}):
        client.link.send(Signal(OFFER, payload, "rtunnel-invite-1"))
    client.link.send(Signal(ANSWER, offer_payload(Half(code_of(each), CLIENT).message), "rtunnel-invite-1"))
    await rtc.until(lambda: rtc.lines.text.count("invitation 1: client nosy sent") == 4, "four lines")
    assert each.stage.value == "waiting"
    right = Invited(rtc, server, code_of(each), "right")
    await rtc.until(lambda: right.told == ID, "an answer")
    assert right.confirms(each) == (True, True)


@pytest_twisted.ensureDeferred
async def test_one_sender_does_not_try_for_ever(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "TRIES_AT_ONCE", 2)
    server = rtc.signal()
    host = invitations(rtc, server)
    each = await host.invite(WEB)
    client = Invited(rtc, server, InvitationCode(9, ("guitarist", "orca")), "nosy")
    await rtc.until(lambda: client.told, "a refusal")
    for _ in range(2):
        client.link.send(Signal(OFFER, None, "rtunnel-invite-1"))
    client.link.send(Signal(OFFER, offer_payload(Half(code_of(each), CLIENT).message), "rtunnel-invite-1"))
    await rtc.lines.wait_for("client nosy tries invitations too often; not answered\n")
    assert each.stage.value == "waiting"
    assert [signal.type for signal in client.signals] == ["error"]


@pytest_twisted.ensureDeferred
async def test_numbers_that_others_have(rtc: World) -> None:
    server = rtc.signal()
    other, host = invitations(rtc, server), invitations(rtc, server)
    assert code_of(await other.invite(WEB)).number == 1
    each = await host.invite(Terms())
    number = code_of(each).number
    assert 2 <= number <= 9999
    assert ids(server) == {"rtunnel-invite-1", f"rtunnel-invite-{number}"}
    client = Invited(rtc, server, code_of(each))
    await rtc.until(lambda: client.told == ID, "an answer")
    assert client.confirms(each) == (True, True)


@pytest_twisted.ensureDeferred
async def test_there_are_only_so_many(rtc: World) -> None:
    server = rtc.signal()
    host = invitations(rtc, server)
    several = [await host.invite(WEB) for _ in range(MAX_OPEN)]
    assert sorted(code_of(each).number for each in several) == list(range(1, MAX_OPEN + 1))
    with pytest.raises(ConfigError, match=r"^8 invitations are open, and there may be no more; withdraw one, or wait$"):
        await host.invite(WEB)
    host.withdraw(several[3])
    assert several[3].stage.value == "withdrawn"
    await rtc.lines.wait_for("invitation 4 is withdrawn\n")
    await rtc.until(lambda: "rtunnel-invite-4" not in ids(server), "an ID that is free")
    assert code_of(await host.invite(WEB)).number == 4


@pytest_twisted.ensureDeferred
async def test_no_new_ones_while_somebody_guesses(rtc: World) -> None:
    server = rtc.signal(max_per_address=0)
    host = invitations(rtc, server)
    for number in range(FAILURES_AT_ONCE):
        each = await host.invite(WEB)
        client = Invited(rtc, server, wrong(code_of(each)), f"guesser {number}")
        await rtc.until(lambda client=client: client.told, "an answer")  # type: ignore[misc]
        assert client.confirms(each) == (False, False)
    with pytest.raises(ConfigError) as caught:
        await host.invite(WEB)
    assert str(caught.value) == (
        "5 invitations have failed; somebody may be guessing codes, so there is no new one for 13 min"
    )


@pytest.mark.parametrize("is_answered", [False, True], ids=["not answered", "answered"])
@pytest_twisted.ensureDeferred
async def test_time_is_over(rtc: World, is_answered: bool) -> None:
    server = rtc.signal()
    host = invitations(rtc, server)
    each = await host.invite(WEB)
    if is_answered:
        client = Invited(rtc, server, code_of(each))
        await rtc.until(lambda: client.told == ID, "an answer")
    assert each.invitation is not None
    now = host.reactor.seconds()
    assert now < each.invitation.ends_at <= now + (CONNECTS_WITHIN if is_answered else LASTS)
    each.invitation.ends_at = now
    await rtc.until(lambda: each.is_over, "an end")
    assert each.stage.value == ("failed" if is_answered else "expired")
    await rtc.lines.wait_for("invitation 1 is (spent: whoever was answered has not shown a code within|expired)")
    await rtc.until(lambda: "rtunnel-invite-1" not in ids(server), "an ID that is free")


@pytest_twisted.ensureDeferred
async def test_signaling_is_lost_and_back(rtc: World) -> None:
    server = rtc.signal()
    port = rtc.port_of(server)
    host = invitations(rtc, server)
    each = await host.invite(WEB)
    code = code_of(each)
    await rtc.stop(server)
    await rtc.until(lambda: not each.link.up, "signaling that is lost")
    client = Invited(rtc, port, code)
    assert not each.is_over
    rtc.signal(port)
    await rtc.until(lambda: client.told, "an answer, or a refusal if the client was quicker")
    if client.confirmation is None:
        assert client.told.startswith("there is no invitation 1:")
        await rtc.until(lambda: each.link.up, "an invitation that can be found again")
        client = Invited(rtc, port, code, "again")
        await rtc.until(lambda: client.told == ID, "an answer")
    assert code_of(each) == code
    assert client.confirms(each) == (True, True)


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_not_there(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "OPENS_WITHIN", 0.5)
    server = rtc.signal()
    port = rtc.port_of(server)
    await rtc.stop(server)
    host = invitations(rtc, port)
    with pytest.raises(ConfigError, match=r"^the signaling server has not accepted it within 0 s: cannot reach "):
        await host.invite(WEB)
    assert host.open == []


@pytest_twisted.ensureDeferred
async def test_a_server_without_room(rtc: World) -> None:
    server = rtc.signal(max_hosts=1)
    host = invitations(rtc, server)
    await host.invite(WEB)
    with pytest.raises(ConfigError, match=r"^the signaling server refuses it: the server has too many hosts$"):
        await host.invite(WEB)


@pytest_twisted.ensureDeferred
async def test_the_host_stops(rtc: World) -> None:
    server = rtc.signal()
    host = invitations(rtc, server)
    each = await host.invite(WEB)
    changed = each.changed()
    stopping = Deferred.fromCoroutine(rtc.stop(host))
    await changed
    assert each.stage.value == "withdrawn"
    await stopping
    await rtc.until(lambda: not ids(server), "an ID that is free")
    with pytest.raises(ConfigError, match="about to end"):
        await host.invite(WEB)


@pytest_twisted.ensureDeferred
async def test_a_host_that_does_not_answer(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from rtunnel.rtc.invitations import redeeming

    monkeypatch.setattr(redeeming, "ANSWER_TIMEOUT", 0.2)
    server = rtc.signal()
    silent = Invited(rtc, server, InvitationCode(9, ("guitarist", "orca")), "rtunnel-invite-7")
    await rtc.until(lambda: silent.told, "somebody who has the ID")
    client = Invited(rtc, server, InvitationCode(7, ("guitarist", "orca")))
    await rtc.until(lambda: client.told, "an end")
    assert client.told == "the host of invitation 7 does not answer; ask for a new code"
    await turns()
    assert client.confirmation is None


@pytest_twisted.ensureDeferred
async def test_at_a_reference_server(rtc: World) -> None:
    server = rtc.start(ReferenceSignalServer(reactor))
    other, host = invitations(rtc, server.port), invitations(rtc, server.port)
    await other.invite(WEB)
    each = await host.invite(WEB)
    assert sorted(server.hosts) == sorted({"rtunnel-invite-1", f"rtunnel-invite-{code_of(each).number}"})
    client = Invited(rtc, server.port, code_of(each))
    await rtc.until(lambda: client.told == ID, "an answer")
    assert client.confirms(each) == (True, True)
    missing = (number for number in range(1, 9999) if number not in (1, code_of(each).number))
    late = Invited(rtc, server.port, InvitationCode(next(missing), ("guitarist", "orca")), "late")
    await rtc.until(lambda: late.told, "a refusal")
    assert late.told.startswith("there is no invitation ")
