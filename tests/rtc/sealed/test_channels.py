"""Sealed channels over connections in memory: what is held, what is bounded, and what ends the connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rtunnel.errors import Code
from rtunnel.rtc.sealed import channels
from rtunnel.rtc.sealed.end import LINGER, STRIPPED
from rtunnel.wire.webrtc.sealed_messages import LONGER
from rtunnel.wire.webrtc.sealed_open import LABEL, MAX_SERVICE
from tests.rtc.fakes import FakeChannelUser
from tests.rtc.sealed.parts import Pair, Says

Make = Callable[..., Pair]
BROKEN = "it is refused: the client broke the protocol of sealed channels: "


def early(pair: Pair) -> Pair:
    """Go on until the client is ready. The host is not, by then."""
    pair.host.connection.connect(pair.client.connection)
    while pair.client.news != ["ready"]:
        assert pair.network.pump()
    return pair


@pytest.mark.parametrize("reliable", [True, False])
def test_messages_both_ways(make_pair: Make, reliable: bool) -> None:
    pair = make_pair().connect()
    channel, user = pair.client.open("web", reliable=reliable)
    pair.settle()
    assert user.told == ["opened"]
    assert channel.is_open
    [arrived] = pair.host.channels
    assert (arrived.label, arrived.protocol, arrived.reliable) == ("label", "web", reliable)
    channel.send(b"question")
    channel.send(b"")
    arrived.send(b"answer")
    arrived.send_text("text")
    pair.settle()
    assert pair.host.users[0].told == [b"question", b""]
    assert user.told == ["opened", b"answer", "text"]
    channel.close()
    pair.settle()
    assert user.told[-1] == pair.host.users[0].told[-1] == "closed"
    assert not pair.host.end.channels.open
    assert not pair.client.end.channels.open


def test_the_network_sees_nothing(make_pair: Make) -> None:
    pair = make_pair()
    seen: list[bytes] = []
    pair.host.connection.change = lambda _label, data: seen.append(data) or data  # type: ignore[func-returns-value]
    pair.connect()
    channel, _ = pair.client.open("payroll")
    channel.send(b"payroll of May")
    channel.send_text("payroll of June")
    pair.settle()
    assert pair.host.users[0].told == [b"payroll of May", "payroll of June"]
    assert not any(b"payroll" in each for each in seen)
    raw = [each for each in pair.host.connection.channels.values() if each.label == LABEL]
    assert [each.label for each in raw] == ["sealed"]
    assert "payroll" not in raw[0].protocol


def test_what_comes_early_is_not_lost(make_pair: Make) -> None:
    pair = early(make_pair())
    opened = [pair.client.open(str(number)) for number in range(5)]
    for number, (channel, _) in enumerate(opened):
        channel.send(b"%d" % number)
    opened[4][0].close()
    pair.network.pump()
    # The channels overtake the client's BIND, which is behind nothing here: hold it back.
    pair.settle()
    assert [user.told[0] for user in pair.host.users] == [b"%d" % number for number in range(5)]
    assert [channel.protocol for channel in pair.host.channels] == [str(number) for number in range(5)]
    assert pair.host.users[4].told == [b"4", "closed"]


class Held:
    """A pair whose host gets the client's last messages of TLS when the test says so."""

    def __init__(self, make_pair: Make) -> None:
        self.pair = make_pair()
        self._late: list[bytes] = []
        connection = self.pair.host.connection
        passed = connection.change
        count = 0

        def change(label: str, data: bytes) -> bytes | None:
            nonlocal count
            if label != "rtunnel-control":
                return passed(label, data)
            count += 1
            if count <= 2:
                return data
            self._late.append(data)
            return None

        connection.change = change
        early(self.pair)

    def go_on(self) -> None:
        for data in self._late:
            self.pair.host.end.session.message_received(data)
        self.pair.settle()


def test_what_overtakes_the_bind(make_pair: Make) -> None:
    held = Held(make_pair)
    pair = held.pair
    channel, user = pair.client.open()
    datagrams, _ = pair.client.open("dns", reliable=False)
    channel.send(b"early")
    channel.close()
    pair.settle()
    datagrams.send(b"datagram")
    pair.settle()
    assert user.told == ["closed"]
    assert not pair.host.news
    assert not pair.host.users
    assert pair.host.end.channels.held > 0
    held.go_on()
    assert [each.told for each in pair.host.users] == [[b"early", "closed"], [b"datagram"]]
    assert pair.host.end.channels.held == 0


def test_a_client_opens_no_more_than_the_host_holds(make_pair: Make) -> None:
    held = Held(make_pair)
    pair = held.pair
    opened = [pair.client.open(str(number)) for number in range(300)]
    opened[200][0].close()
    assert opened[200][1].told == ["closed"]
    pair.settle()
    assert len(pair.host.end.channels._held) == channels.EARLY_CHANNELS
    held.go_on()
    services = [int(channel.protocol) for channel in pair.host.channels]
    assert services == [number for number in range(300) if number != 200]
    assert all(user.told == ["opened"] for number, (_, user) in enumerate(opened) if number != 200)


def test_a_client_sends_no_more_than_the_host_holds(make_pair: Make) -> None:
    held = Held(make_pair)
    pair = held.pair
    channel, _ = pair.client.open()
    sent = 0
    while pair.client.end.channels.buffered < 16384:
        channel.send(bytes(16384))
        pair.settle()
        sent += 1
    assert sent == channels.EARLY_BYTES // 16384
    assert not pair.host.end.why
    held.go_on()
    assert pair.client.end.channels.buffered == 0
    assert sum(map(len, pair.host.users[0].told)) == channels.EARLY_BYTES


def test_a_client_that_sends_more(make_pair: Make) -> None:
    held = Held(make_pair)
    pair = held.pair
    channel, _ = pair.client.open()
    for _ in range(channels.HELD_BYTES // 16384):
        channel.send(bytes(16384))
    pair.settle()
    assert pair.host.end.why == f"{BROKEN}more than {channels.HELD_BYTES} bytes before its bind"
    assert pair.host.end.channels.held == 0
    pair.wait(LINGER)


def test_a_client_that_sends_nothing_again_and_again(make_pair: Make) -> None:
    """Messages without bytes take memory, too."""
    held = Held(make_pair)
    pair = held.pair
    channel = pair.client.connection.open_channel(LABEL, "x")
    for _ in range(channels.HELD_BYTES // channels.PER_MESSAGE + 1):
        channel.send(b"")
    pair.settle()
    assert pair.host.end.why == f"{BROKEN}more than {channels.HELD_BYTES} bytes before its bind"
    pair.wait(LINGER)


def test_a_client_that_opens_more(make_pair: Make) -> None:
    held = Held(make_pair)
    pair = held.pair
    for _ in range(channels.HELD_CHANNELS + 1):
        pair.client.connection.open_channel(LABEL, "x").use(FakeChannelUser())
    pair.settle()
    assert pair.host.end.why == f"{BROKEN}more than {channels.HELD_CHANNELS} channels before its bind"
    pair.wait(LINGER)


def test_datagrams_that_are_too_many_are_lost(make_pair: Make) -> None:
    held = Held(make_pair)
    pair = held.pair
    channel, _ = pair.client.open("dns", reliable=False)
    pair.settle()
    for number in range(80):
        channel.send(bytes([number]) * 10_000)
        pair.settle()
    held.go_on()
    assert 0 < len(pair.host.users[0].told) < 80
    assert not pair.host.end.why
    channel.send(b"later")
    pair.settle()
    assert pair.host.users[0].told[-1] == b"later"


# Forged, repeated, reflected


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\1" + data[1:],
        lambda data: b"",
    ],
    ids=["changed", "cut", "longer", "of another kind", "empty"],
)
def test_a_reliable_message_that_is_not_authentic(make_pair: Make, change: Callable[[bytes], bytes]) -> None:
    pair = make_pair().connect()
    channel, user = pair.client.open()
    pair.settle()
    pair.host.connection.change = lambda label, data: change(data) if label == LABEL else data
    channel.send(b"message")
    pair.settle()
    assert pair.host.users[0].told == ["closed"]
    assert pair.host.end.why.startswith(f"{BROKEN}a ")
    assert user.told[-1] == "closed"
    pair.wait(LINGER)
    assert pair.client.why.startswith("the host refuses this client: the client broke the protocol of sealed channels")


def test_a_repeated_reliable_message(make_pair: Make) -> None:
    pair = make_pair().connect()
    channel, _ = pair.client.open()
    sent: list[bytes] = []
    pair.host.connection.change = lambda _label, data: sent.append(data) or sent[0]  # type: ignore[func-returns-value]
    channel.send(b"once")
    channel.send(b"twice")
    pair.settle()
    assert pair.host.users[0].told == [b"once", "closed"]
    assert pair.host.end.why == f"{BROKEN}a record that is not authentic"
    pair.wait(LINGER)


def test_datagrams_that_are_not_authentic_are_counted(make_pair: Make) -> None:
    pair = make_pair().connect()
    channel, _ = pair.client.open("dns", reliable=False)
    pair.settle()
    sent: list[bytes] = []
    pair.host.connection.change = lambda _label, data: sent.append(data) or sent[0]  # type: ignore[func-returns-value]
    for _ in range(3):
        channel.send(b"datagram")
    pair.settle()
    assert pair.host.users[0].told == [b"datagram"]
    assert pair.host.end.channels.datagrams_forged == 2
    assert not pair.host.end.why


def test_a_channel_that_is_opened_again(make_pair: Make) -> None:
    pair = make_pair().connect()
    pair.client.open()
    pair.settle()
    raw = next(each for each in pair.client.connection.channels.values() if each.label == LABEL)
    pair.client.connection.open_channel(LABEL, raw.protocol).use(FakeChannelUser())
    pair.settle()
    assert pair.host.end.why == f"{BROKEN}a sealed channel that has come before, or is too old"
    assert len(pair.host.users) == 1
    pair.wait(LINGER)


@pytest.mark.parametrize("reliable", [True, False])
def test_text_on_a_sealed_channel(make_pair: Make, reliable: bool) -> None:
    pair = make_pair().connect()
    pair.client.open(reliable=reliable)
    pair.settle()
    raw = next(each for each in pair.client.connection.channels.values() if each.label == LABEL)
    raw.send_text("hello")
    pair.settle()
    assert pair.host.end.why == (f"{BROKEN}a text message that is not sealed" if reliable else "")
    assert pair.host.end.channels.datagrams_forged == (0 if reliable else 1)
    assert "hello" not in pair.host.users[0].told
    pair.wait(LINGER)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_channel_that_is_not_sealed(make_pair: Make, when: str) -> None:
    """The client believes that the host does not seal, as somebody has changed the answer; or it tries."""
    pair = make_pair()
    if when == "before":
        pair.client.end.connected = lambda: None  # type: ignore[method-assign]
    pair.connect()
    user = FakeChannelUser()
    channel = pair.client.connection.open_channel("tcp-x", "web")
    channel.use(user)
    channel.send(b"secret")
    pair.settle()
    assert user.told == ["opened", f'{{"reset":"unauthorized","message":"{STRIPPED}"}}', "closed"]
    assert pair.host.users == []
    pair.wait(LINGER)
    assert pair.host.why == f"it is refused: {STRIPPED}"


def test_a_host_that_opens_a_channel(make_pair: Make) -> None:
    """Its ordinals are its own."""
    pair = make_pair().connect()
    _, client = pair.client.open("one")
    _, host = pair.host.open("two")
    pair.settle()
    assert [each.protocol for each in pair.host.channels] == ["one"]
    assert [each.protocol for each in pair.client.channels] == ["two"]
    assert client.told == host.told == ["opened"]


# Bounds, and ends


def test_messages_are_smaller_by_what_the_seal_takes(make_pair: Make) -> None:
    pair = make_pair().connect()
    most = pair.client.end.channels.max_message
    assert most == pair.client.connection.max_message - LONGER
    seen: list[int] = []
    pair.host.connection.change = lambda _label, data: seen.append(len(data)) or data  # type: ignore[func-returns-value]
    for reliable in (True, False):
        channel, _ = pair.client.open(reliable=reliable)
        pair.settle()
        channel.send(bytes(most))
    pair.settle()
    assert max(seen) == pair.client.connection.max_message


def test_a_name_that_is_too_long(make_pair: Make) -> None:
    pair = make_pair().connect()
    _, user = pair.client.open("x" * (MAX_SERVICE + 1))
    assert user.told == []
    pair.settle()
    assert user.told == ["closed"]
    assert not pair.client.end.channels.open


@pytest.mark.parametrize("reliable", [True, False])
def test_a_channel_is_cut(make_pair: Make, reliable: bool) -> None:
    """Its user hears of it at once, and of nothing more; the other end hears why."""
    pair = make_pair().connect()
    channel, user = pair.client.open(reliable=reliable)
    pair.settle()
    arrived = pair.host.channels[0]
    channel.send(b"under way")
    arrived.cut(Code.UNAUTHORIZED, "no more")
    assert pair.host.users[0].told == ["closed"]
    pair.settle()
    assert pair.host.users[0].told == ["closed"]
    why = ['{"reset":"unauthorized","message":"no more"}'] if reliable else []
    assert user.told == ["opened", *why, "closed"]
    assert [end.news for end in pair.ends] == [["ready", "accepted"]] * 2


def test_after_the_end_nothing_is_taken(make_pair: Make) -> None:
    trust = Says()
    pair = make_pair(trust).connect()
    opened = [pair.client.open(reliable=reliable)[0] for reliable in (True, False)]
    pair.settle()
    for channel in opened:
        channel.send(b"under way")
    pair.host.end.session.refuse(Code.UNAUTHORIZED, "a test")
    arrived = pair.host.channels[0]
    assert not arrived.can_send
    arrived.send(b"nothing")
    arrived.close()
    user = FakeChannelUser()
    pair.client.connection.open_channel("tcp-x").use(user)
    pair.settle()
    assert [each.told for each in pair.host.users] == [["closed"]] * 2
    pair.wait(LINGER)


def test_keys_are_forgotten_in_time(make_pair: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair().connect()
    pair.client.open(reliable=False)
    pair.settle()
    ticked: list[float] = []
    monkeypatch.setattr("rtunnel.wire.webrtc.sealed_messages.DatagramSeals.tick", lambda _self, now: ticked.append(now))
    pair.clock.advance(5)
    pair.host.end.tick()
    assert ticked == [5.0]
