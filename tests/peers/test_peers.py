"""Our peer connections with other WebRTC stacks: channels of all kinds, messages of all sizes, and their ends."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.peers.engines import sent
from tests.peers.meeting import Meet, ends, engine, meet
from tests.reverse.net import until

__all__ = ["ends", "engine", "meet"]

pytestmark = pytest.mark.process

KINDS: list[dict[str, Any]] = [
    {},
    {"ordered": False},
    {"maxRetransmits": 0, "ordered": False},
    {"maxRetransmits": 3},
    {"maxPacketLifeTime": 200, "ordered": False},
    {"protocol": "a-protocol"},
]
#: They count the letters of a protocol and not its bytes.
COUNT_LETTERS = ("aiortc", "werift")
#: It sends nothing for an empty message.
NOTHING_IF_EMPTY = "werift"
#: Its interface like the browsers' does not say of what kind a channel is that the other end opens.
TELLS_NO_KIND = "libdatachannel"

SIZES = [1, 2, 3, 4, 100, 1150, 1160, 1161, 1200, 4096, 16_384, 65_535, 65_536, 100_000, 262_144]
#: Who mixes the fragments of messages (RFC 8260), and who takes packets without checksums (RFC 9653).
INTERLEAVES, NEEDS_NO_CHECKSUM = "firefox", "libdatachannel"


@pytest_twisted.ensureDeferred
async def test_what_the_engine_offers_is_used(meet: Meet) -> None:
    match = await meet(we_offer=True)
    user = await match.open("echo")
    association, name = match.connection._channels._association, match.engine.name
    assert association is not None
    assert association.interleaved == (name == INTERLEAVES)
    assert association._envelope.zero_checksum == (name == NEEDS_NO_CHECKSUM)
    # No stack but ours takes larger packets, though libdatachannel repeats what our description says of that.
    assert association._limits.largest_packet == 1188
    digest = await match.send(user, [40_000, 10])
    await until(lambda: user.count == 2 or match.end.lost)
    assert user.digest.hexdigest() == digest


@pytest.mark.parametrize("we_offer", [True, False], ids=["we-offer", "we-answer"])
@pytest_twisted.ensureDeferred
async def test_messages_of_all_sizes_come_back(meet: Meet, we_offer: bool) -> None:
    match = await meet(we_offer=we_offer)
    sizes = [size for size in SIZES if size <= match.connection.max_message]
    assert len(sizes) >= 11
    user = await match.open("echo")
    digest = await match.send(user, sizes)
    await until(lambda: user.count == len(sizes) or match.end.lost)
    assert (user.digest.hexdigest(), user.texts) == (digest, 0)
    texts = await match.open("echo texts")
    digest = await match.send(texts, [0, 1, 1200, 60_000], text=True)
    await until(lambda: texts.count == 4 or match.end.lost)
    assert (texts.digest.hexdigest(), texts.texts) == (digest, 4)


@pytest_twisted.ensureDeferred
async def test_empty_messages(meet: Meet) -> None:
    match = await meet(we_offer=True)
    user = await match.open("echo")
    user.channel.send(b"")
    user.channel.send_text("")
    user.channel.send(b"end")
    report = await match.engine("received", label="echo", count=3)
    assert (report["bytes"], report["texts"]) == (3, 1)
    if match.engine.name != NOTHING_IF_EMPTY:
        await until(lambda: user.count == 3 or match.end.lost)
        assert (user.bytes, user.texts) == (3, 1)
    assert not match.end.lost


@pytest_twisted.ensureDeferred
async def test_channels_of_all_kinds(meet: Meet) -> None:
    match = await meet(we_offer=False)
    engine = match.engine
    for number, options in enumerate(KINDS):
        label = f"kind {number}"
        await engine("open", label=label, options=options)
        user = await match.channel(label)
        assert user.channel.protocol == options.get("protocol", "")
        ordinary = options.get("ordered", True) and not {"maxRetransmits", "maxPacketLifeTime"} & {*options}
        assert user.channel.reliable == ordinary
        sizes = [10, 1000, 5000]
        assert await engine("send", label=label, sizes=sizes, times=1, text=False) == 3
        await until(lambda: user.count == 3 or match.end.lost)  # noqa: B023
        assert sorted(user.numbers) == [0, 1, 2]
        await match.send(user, sizes)
        report = await engine("received", label=label, count=3)
        assert (report["bytes"], sorted(report["numbers"])) == (6010, [0, 1, 2])
    ours = await match.open("ours", reliable=False)
    await match.send(ours, [500])
    report = await engine("received", label="ours", count=1)
    if engine.name != TELLS_NO_KIND:
        assert (report["ordered"], report["maxRetransmits"]) == (False, 0)
    if engine.name not in COUNT_LETTERS:
        await engine("open", label="ünicode", options={"protocol": "ünicode"})
        assert (await match.channel("ünicode")).channel.protocol == "ünicode"


@pytest_twisted.ensureDeferred
async def test_twenty_channels_at_once(meet: Meet) -> None:
    match = await meet(we_offer=True)
    engine, sizes = match.engine, [1000, 40_000]
    opened = [engine("open", label=f"theirs {n}", options={}) for n in range(10)]
    ours = [await match.open(f"ours {n}") for n in range(10)]
    for each in opened:
        await each
    sending = [engine("send", label=f"theirs {n}", sizes=sizes, times=10, text=False) for n in range(10)]
    digests = [await match.send(user, sizes, 10) for user in ours]
    for n, digest in enumerate(digests):
        assert (await engine("received", label=f"ours {n}", count=20))["sha256"] == digest
    for n, each in enumerate(sending):
        await each
        user = await match.channel(f"theirs {n}")
        await until(lambda: user.count == 20 or match.end.lost)  # noqa: B023
        assert user.digest.hexdigest() == sent(sizes, 10)


@pytest.mark.parametrize("we_close", [True, False], ids=["we-close", "they-close"])
@pytest_twisted.ensureDeferred
async def test_all_that_was_sent_arrives_before_the_channel_is_closed(meet: Meet, we_close: bool) -> None:
    match = await meet(we_offer=True)
    engine, sizes = match.engine, [20_000]
    for turn in range(3):
        label = f"turn {turn}"
        user = await match.open(label)
        if we_close:
            digest = await match.send(user, sizes, 20)
            user.channel.close()
            await engine("closed", label=label)
            # libdatachannel may tell of the end before it has passed on what came last.
            report = await engine("received", label=label, count=20)
            assert (report["count"], report["sha256"]) == (20, digest)
            await until(lambda: user.closed)  # noqa: B023
        else:
            await engine("send", label=label, sizes=sizes, times=20, text=False)
            await engine("close", label=label)
            await until(lambda: user.closed or match.end.lost)  # noqa: B023
            assert (user.count, user.digest.hexdigest()) == (20, sent(sizes, 20))
            await engine("closed", label=label)
    # Their streams can be used again.
    again = [await match.open(f"echo {n}") for n in range(3)]
    for user in again:
        digest = await match.send(user, [3000])
        await until(lambda: user.count or match.end.lost)  # noqa: B023
        assert user.digest.hexdigest() == digest


@pytest_twisted.ensureDeferred
async def test_datagrams(meet: Meet) -> None:
    """Unordered and without retransmission: on a machine of its own almost all arrive, and none twice."""
    match = await meet(we_offer=True)
    engine, count = match.engine, 200
    user = await match.open("echo datagrams", reliable=False)
    for number in range(count):
        user.channel.send(number.to_bytes(4, "big") + bytes(800))
        await until(lambda: user.count > number - 20 or match.end.lost)  # noqa: B023
    await until(lambda: user.count > count * 9 // 10 or match.end.lost)
    assert len(set(user.numbers)) == len(user.numbers)
    await engine("open", label="theirs", options={"ordered": False, "maxRetransmits": 0})
    theirs = await match.channel("theirs")
    await engine("send", label="theirs", sizes=[800], times=50, text=False)
    await until(lambda: theirs.count > 40 or match.end.lost)
    assert not match.end.lost
    assert len(set(theirs.numbers)) == len(theirs.numbers)


@pytest_twisted.ensureDeferred
async def test_the_engine_ends_the_connection(meet: Meet) -> None:
    match = await meet(we_offer=True)
    user = await match.open("a")
    await match.engine("bye")
    assert await match.end.ends() == "the peer closed the connection"
    assert user.closed


@pytest_twisted.ensureDeferred
async def test_we_end_the_connection(meet: Meet) -> None:
    match = await meet(we_offer=True)
    await match.open("a")
    # An engine that has not seen the channel yet when its end comes may never tell of it.
    await match.engine("received", label="a", count=0)
    await match.connection.close()
    await match.engine("closed", label="a")
