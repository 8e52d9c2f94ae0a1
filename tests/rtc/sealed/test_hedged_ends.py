"""A host and a client in this process whose keys have others mixed in by a real liboqs, and who else may come."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted

from rtunnel.control.rtc import client as client_view, host as host_view
from rtunnel.options.status import tables
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.host import RtcHost
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.wire.data.hedges import KEMS, PIECE, cut
from rtunnel.wire.data.keys import client_length
from rtunnel.wire.webrtc.seal_control import LABEL, PROTOCOL
from rtunnel.wire.webrtc.signaling import ANSWER, OFFER, Signal
from tests.needs import needs_liboqs
from tests.reverse.net import reactor, until
from tests.rtc.host_parts import ByHand
from tests.rtc.sealed.middle import Change, Middle, change_what_comes, without
from tests.rtc.sealed.parts import Says
from tests.rtc.world import ID, World

pytestmark = needs_liboqs

MCELIECE, FRODO = KEMS
AMOUNT = 3_000_000


class Ends:
    """A host with a service that echoes, and a client.

    :param host: its hedges.
    :param client: those of the client.
    """

    def __init__(self, rtc: World, service: Any, host: RtcHost, client: RtcClient) -> None:
        self.rtc = rtc
        self.service = service
        self.host, self.client = host, client

    @classmethod
    async def make(cls, rtc: World, host: tuple[str, ...], client: tuple[str, ...]) -> Ends:
        service = await rtc.echo()
        server = rtc.signal()
        host_end = rtc.host(server, service.port, hedge=host)
        await rtc.registered(host_end)
        return cls(rtc, service, host_end, rtc.client(server, hedge=client))

    async def nothing_is_carried(self, *lines: str) -> None:
        """Wait for these lines; nobody has reached the service by then."""
        visitor = await self.rtc.visitor(self.client)
        visitor.send(b"secret")
        for line in lines:
            await self.rtc.lines.wait_for(line)
        assert not self.service.peers
        assert "connected to host" not in self.rtc.lines.text
        assert " connected: " not in self.rtc.lines.text


@pytest.mark.parametrize("names", [(MCELIECE, FRODO), (FRODO,)])
@pytest_twisted.ensureDeferred
async def test_what_is_carried_and_what_is_said(rtc: World, names: tuple[str, ...]) -> None:
    ends = await Ends.make(rtc, names, names)
    visitor = await rtc.visitor(ends.client)
    visitor.send(bytes(AMOUNT))
    await visitor.has(bytes(AMOUNT))
    words = f"X25519MLKEM768 + {' + '.join(names)}, ML-DSA-65, "
    await rtc.lines.wait_for(f"connected to host '{ID}': direct, .*; sealed {re.escape(words)}")
    await rtc.lines.wait_for(f"client .* connected: direct, .*; sealed {re.escape(words)}")
    for peer in (host_view.look(ends.host)["peers"][0], client_view.look(ends.client)["peer"]):
        assert peer["sealed"]["hedge"] == list(names)
        assert tables._seal(peer) == words + peer["sealed"]["name"]
    assert [peer.sealed.held for peer in ends.host.peers if peer.sealed is not None] == [0]


@pytest.mark.parametrize(
    ("host", "client", "said"),
    [
        ((FRODO,), (), f"the client has no --hedge, the host --hedge {FRODO}"),
        ((), (FRODO,), f"the client has --hedge {FRODO}, the host no --hedge"),
        ((FRODO,), (MCELIECE, FRODO), f"the client has --hedge {MCELIECE},{FRODO}, the host --hedge {FRODO}"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_both_ends_must_have_the_same(
    rtc: World, host: tuple[str, ...], client: tuple[str, ...], said: str
) -> None:
    ends = await Ends.make(rtc, host, client)
    said += "; nothing is carried before both have the same"
    await ends.nothing_is_carried(
        f"client .* is refused: {said}", f"host '{ID}' cannot be reached: it refuses this client: {said}; next attempt"
    )


@pytest.mark.parametrize("key", ["hedge", "seal", ""])
@pytest.mark.parametrize("stripped", ["offer", "answer"])
@pytest_twisted.ensureDeferred
async def test_an_announcement_that_is_stripped(rtc: World, key: str, stripped: str) -> None:
    """In the open mode too."""
    ends = await Ends.make(rtc, (FRODO,), (FRODO,))
    if stripped == "offer":
        change_what_comes(ends.host, without(key))
        why = f"the client has no --hedge, the host --hedge {FRODO}"
        if key != "hedge":
            why = "its offer does not say that it seals its channels; its rtunnel is too old, or somebody on the way"
        await ends.nothing_is_carried(f"client .* is refused: {why}")
        return
    change_what_comes(ends.client, without(key))
    why = f"the client has --hedge {FRODO}, the host no --hedge"
    if key != "hedge":
        why = "the answer does not say that it seals its channels, and only such hosts are accepted here"
    await ends.nothing_is_carried(f"host '{ID}' cannot be reached: {why}")


def _announces(names: tuple[str, ...]) -> Change:
    """Whoever makes every description announce these hedges."""

    def change(signal: Signal) -> list[Signal]:
        payload: Any = signal.payload
        if signal.type in (OFFER, ANSWER) and "rtunnel" in payload:
            extension = {**payload["rtunnel"], "hedge": list(names)}
            return [replace(signal, payload={**payload, "rtunnel": extension})]
        return [signal]

    return change


@pytest.mark.parametrize(
    ("host", "client"), [((FRODO,), ()), ((), (FRODO,)), ((FRODO,), (MCELIECE,)), ((MCELIECE,), (FRODO,))]
)
@pytest_twisted.ensureDeferred
async def test_announcements_that_are_forged(rtc: World, host: tuple[str, ...], client: tuple[str, ...]) -> None:
    """Each end believes that the other has the same hedges. Then KEYS does not fit, and nothing is carried."""
    ends = await Ends.make(rtc, host, client)
    change_what_comes(ends.host, _announces(host))
    change_what_comes(ends.client, _announces(client))
    await ends.nothing_is_carried(
        "client .* lost: the client broke the protocol of sealed channels: ", f"host '{ID}' cannot be reached: "
    )


@pytest_twisted.ensureDeferred
async def test_somebody_between_the_ends(rtc: World) -> None:
    """Hedges do not tell who is there. That both ends see other certificates in DTLS does."""
    ends = await Ends.make(rtc, (FRODO,), (FRODO,))
    middle = Middle(ends.host, ends.client)
    try:
        await ends.nothing_is_carried(
            "client .* lost: .*somebody sits between this end and the (client|host)",
            f"host '{ID}' cannot be reached: .*somebody sits between this end and the |host '{ID}' lost: .*somebody",
        )
    finally:
        await rtc.stop(ends.client)
        await middle.close()


# Strangers


class Stranger(ByHand):
    """A client that announces the hedges, and sends on the control channel what the test wants."""

    async def control(self, *names: str) -> Any:
        assert self.extension is not None
        self.extension = replace(self.extension, seal=True, hedge=names)
        await self.connect()
        channel, self.user = await self.open(LABEL, PROTOCOL)
        return channel


async def _hedged_host(rtc: World) -> RtcHost:
    host = rtc.host(rtc.signal(), 9, hedge=(MCELIECE,))
    await rtc.registered(host)
    return host


async def _keys() -> list[bytes]:
    return cut((await Hedges(reactor, (MCELIECE,)).agree()).message)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda pieces: [pieces[0][:-1]], f"a piece of KEYS of {PIECE - 1} bytes where {PIECE} belong"),
        (lambda pieces: [pieces[0] + pieces[1]], f"a piece of KEYS of {2 * PIECE} bytes where {PIECE} belong"),
        (lambda pieces: [*pieces[:-1], pieces[-1] + b"x"], r"a piece of KEYS of \d+ bytes where \d+ belong"),
        (lambda pieces: [b"\0" + pieces[0][1:], *pieces[1:]], "KEYS without a cipher on a link with TLS"),
        (lambda pieces: [*pieces[:-1], b"\xff" * len(pieces[-1])], "TLS"),
        (lambda pieces: [*pieces, pieces[0]], "TLS"),
    ],
    ids=["cut", "oversized", "longer", "no cipher", "bad key", "repeated"],
)
@pytest_twisted.ensureDeferred
async def test_keys_that_are_none(rtc: World, change: Callable[[list[bytes]], list[bytes]], why: str) -> None:
    host = await _hedged_host(rtc)
    peer = Stranger(host)
    control = await peer.control(MCELIECE)
    try:
        for piece in change(await _keys()):
            control.send(piece)
        if why == "TLS":
            control.send(b"no TLS")
            await rtc.lines.wait_for("client by hand lost: TLS with the client failed: ")
        else:
            await rtc.lines.wait_for(f"client by hand lost: the client broke the protocol of sealed channels: {why}")
        await until(lambda: peer.user.told[-1] == "closed", "the end")
        assert not host.peers
    finally:
        await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_what_a_stranger_holds_is_counted(rtc: World) -> None:
    host = await _hedged_host(rtc)
    peer = Stranger(host)
    control = await peer.control(MCELIECE)
    try:
        for piece in (await _keys())[:-1]:
            control.send(piece)
        [sealed] = [each.sealed for each in host.peers]
        [at_host] = host.peers
        assert sealed is not None
        due = client_length([MCELIECE]) // PIECE * PIECE
        await until(lambda: sealed.held == due, "all but the last piece")
        assert sum(count for count, _ in at_host.holdings()) >= due
        at_host.free(at_host)
        await rtc.lines.wait_for(r"client by hand lost: it holds too much memory \(--memory\)")
        assert sealed.held == 0
    finally:
        await peer.connection.close()


@pytest.mark.parametrize("names", [(), (FRODO,), (FRODO, MCELIECE), ("x" * 64,) * 16])
@pytest_twisted.ensureDeferred
async def test_whoever_announces_others_gets_no_connection(rtc: World, names: tuple[str, ...]) -> None:
    """Nothing is spent on it: there is not even a peer connection."""
    host = await _hedged_host(rtc)
    peer = ByHand(host)
    assert peer.extension is not None
    peer.extension = replace(peer.extension, seal=True, hedge=names)
    peer.got = lambda signal: peer.told.append((signal.type, signal.payload))  # type: ignore[method-assign]
    peer.connection.offer()
    try:
        await rtc.lines.wait_for("client by hand is refused: the client has (no )?--hedge.*")
        [answer] = [line[1] for line in peer.told if line[0] == ANSWER]
        assert isinstance(answer, dict)
        assert answer["refused"] == "not-supported"
        assert len(answer["message"]) <= 200
        assert not host.peers
    finally:
        await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_trust_counts_as_without_hedges(rtc: World) -> None:
    ends = await Ends.make(rtc, (FRODO,), (FRODO,))
    ends.host.sealing.trust = Says("nobody knows it")
    await ends.nothing_is_carried("client .* lost: it is refused: nobody knows it")
