"""Peer connections that are closed at every moment."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any

import pytest
import pytest_twisted

from rtunnel.rtc.aiortc import addresses as local, peer_connection
from rtunnel.rtc.settings import IceSettings, TurnServer
from rtunnel.wire.webrtc.signaling import Candidate
from tests.no_collector import Left, no_collector
from tests.reverse.net import HOST, reactor, turns, until
from tests.rtc.aiortc.ice_parts import turn
from tests.rtc.aiortc.peer_connection_parts import End, Ends, ends
from tests.rtc.fakes import FakeChannelUser

__all__ = ["ends"]


@pytest_twisted.ensureDeferred
async def test_closed_when_new(ends: Ends) -> None:
    one = ends.make()
    await one.connection.close()
    await one.connection.close()
    one.connection.offer()
    await turns(5)
    assert one.peer.told == []


@pytest.mark.parametrize("offers", [True, False])
@pytest.mark.parametrize("pauses", range(12))
@pytest_twisted.ensureDeferred
async def test_closed_while_it_comes_about(
    ends: Ends, pauses: int, offers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_all_addresses", lambda: iter([("lo", f"127.0.0.{number}") for number in range(1, 4)]))
    settings = IceSettings(interfaces=("lo",))
    one, two = ends.make(settings), ends.make(settings)
    one.connection.offer()
    closing = one if offers else two
    if offers:
        await turns(pauses // 4)
    else:
        two.connection.take_offer(await one.description())
        await turns(pauses)
    closing.connection.take_candidate(Candidate("candidate:1 1 udp 1 127.0.0.1 9 typ host"))
    await closing.connection.close()
    told = len(closing.peer.told)
    await turns(5)
    assert len(closing.peer.told) == told
    assert not closing.lost


@pytest.mark.parametrize("pauses", range(0, 60, 4))
@pytest_twisted.ensureDeferred
async def test_closed_while_both_connect(ends: Ends, pauses: int) -> None:
    one, two = ends.make(), ends.make()
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    await turns(pauses)
    first, second = one.connection.close(), one.connection.close()
    await first
    await second
    assert not one.lost


@pytest.mark.parametrize("pauses", range(4))
@pytest_twisted.ensureDeferred
async def test_closed_in_the_first_turns_with_an_answer(ends: Ends, pauses: int) -> None:
    one, two = ends.make(), ends.make()
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    for _ in range(pauses):
        await turn()
    await one.connection.close()
    assert one.connection._timer is None


def either_is_lost(one: End, two: End) -> bool:
    return bool(one.lost or two.lost)


@pytest_twisted.ensureDeferred
async def test_closed_while_the_dtls_handshake_ends(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = ends.make(), ends.make()
    dtls = one.connection._dtls
    start, stop = dtls.start, dtls.stop
    started = asyncio.Event()
    over = []

    async def late_start(parameters: Any) -> None:
        over.append(one.connection.close())
        await start(parameters)
        started.set()

    async def early_stop() -> None:
        await stop()
        await started.wait()
        # The handshake is over, and what waits for it goes on.
        await asyncio.sleep(0)

    monkeypatch.setattr(dtls, "start", late_start)
    monkeypatch.setattr(dtls, "stop", early_stop)
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    await until(lambda: over, "the handshake")
    await over[0]
    assert one.connection._path is None
    await until(lambda: dtls._task is None or dtls._task.done(), "an end of DTLS")


@pytest_twisted.ensureDeferred
async def test_closed_by_its_user_from_within_an_event(ends: Ends) -> None:
    for moment in ("connected", "channel_arrived", "lost", "has_room"):
        one, two = ends.make(), ends.make()
        peer, listener = two.peer, getattr(two.peer, moment)

        def close(*what: object, two: End = two, listener: Any = listener) -> None:
            listener(*what)
            two.connection.close()

        setattr(peer, moment, close)
        one.connection.offer()
        two.connection.take_offer(await one.description())
        one.connection.take_answer(await two.description())
        if moment in ("channel_arrived", "lost"):
            await ends.connected(one, two)
            one.connection.open_channel("tcp-x").use(FakeChannelUser())
            if moment == "lost":
                await one.connection.close()
        await until(partial(either_is_lost, one, two), moment)
        await two.connection.close()


@pytest_twisted.ensureDeferred
async def test_closing_does_not_wait_for_servers_that_are_silent(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        where = (HOST, silent.getsockname()[1])
        server = TurnServer(*where)
        one = ends.make(IceSettings(where, (server, server), "u", "p", interfaces=(HOST,)))
        one.connection.offer()
        await one.description()
        await turns(5)
        await one.connection.close()


@pytest_twisted.ensureDeferred
async def test_an_end_that_takes_long_goes_on_behind(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "CLOSE_TIMEOUT", 0.05)
    one, two = await ends.pair()
    may_end: asyncio.Future[None] = reactor._asyncioEventloop.create_future()
    close = one.connection._ice.close

    async def slow() -> None:
        await may_end
        await close()

    monkeypatch.setattr(one.connection._ice, "close", slow)
    await one.connection.close()
    assert await two.ends()
    may_end.set_result(None)
    await turns(5)


@pytest_twisted.ensureDeferred
async def test_what_goes_wrong_in_closing_is_logged(ends: Ends, flush_logged_errors: Any) -> None:
    one = ends.make()
    stop = one.connection._dtls.stop

    async def wrong() -> None:
        raise RuntimeError("a mistake")

    one.connection._dtls.stop = wrong  # type: ignore[method-assign]
    await one.connection.close()
    assert len(flush_logged_errors(RuntimeError)) == 1
    await stop()


@pytest_twisted.ensureDeferred
async def test_channels_of_a_connection_that_is_closed_do_nothing(ends: Ends) -> None:
    one, _ = await ends.pair()
    channel, user = one.connection.open_channel("tcp-x"), FakeChannelUser()
    channel.use(user)
    await until(lambda: user.told, "a channel")
    await one.connection.close()
    channel.send(b"x")
    channel.send_text("x")
    channel.close()
    late = one.connection.open_channel("tcp-y")
    late.send(b"x")
    late.close()
    one.connection.hold(5)
    one.connection.release(5)
    one.connection.take_candidate(Candidate(""))
    await turns(5)
    assert user.told == ["opened", "closed"]
    assert one.connection.buffered == 0


@pytest.mark.parametrize("opens", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_connection_goes_at_once(ends: Ends, opens: bool) -> None:
    """OpenSSL's memory and the queues of SCTP are too much to lie until the garbage collector comes."""

    def parts(end: End) -> list[object]:
        connection = end.connection
        return [end, connection, connection._ice, connection._dtls, connection._channels]

    async def connect() -> Left:
        one, two = await ends.pair() if opens else (ends.make(), ends.make())
        for end in (one, two):
            # As a Peer does.
            end.peer.connection = end.connection  # type: ignore[attr-defined]
        left = Left([*parts(one), *parts(two)])
        if opens:
            channel = one.connection.open_channel("tcp-x", "web")
            channel.send(bytes(100_000))
            await until(lambda: two.peer.arrived, "a channel")
        else:
            one.connection.offer()
            await one.description()
        await one.connection.close()
        await two.connection.close()
        ends.all.clear()
        return left

    with no_collector():
        left = await connect()
        await turns()
        assert not left()
