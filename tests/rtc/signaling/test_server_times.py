"""The signaling server's times as they are outside tests, by a clock that the test turns."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
from twisted.internet.task import Clock

from rtunnel.addresses import ListenAddress
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.limits import TIMES
from rtunnel.rtc.signaling.pace import ADDRESS_BURST, BYTES, PIECE
from rtunnel.rtc.signaling.server import SignalServer
from rtunnel.rtc.signaling.share import Share
from tests.rtc.signaling.server_parts import CLOSE, PING, PONG, TEXT, UPGRADE, FakeTransport, close_code, frame, frames

REGISTER = frame(b'{"type":"register-host","sender_id":"host"}')


class Setting:
    """A server of which only the clock is a fake."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.server = SignalServer(self.clock, SignalSettings(ListenAddress.parse("127.0.0.1:0"), **settings))

    def connect(self, data: bytes = b"") -> Connection:
        return Connection(self, data)

    def wait(self, seconds: float) -> None:
        while seconds > 0:
            step = min(seconds, TIMES.look_every)
            seconds -= step
            self.stop(step)

    def stop(self, seconds: float) -> None:
        """Let time pass in which the process does not run."""
        self.clock.advance(seconds)
        self.server._look()


class Connection:
    """One connection, from both sides."""

    def __init__(self, setting: Setting, data: bytes) -> None:
        self.transport = FakeTransport()
        self.protocol = setting.server.factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        self.say(data)

    def say(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def payloads(self, opcode: int) -> list[bytes]:
        return [payload for kind, payload in frames(self.transport.value()) if kind == opcode]

    def aborted(self) -> bool:
        return self.transport.aborted

    def close_code(self) -> int | None:
        return close_code(self.transport.value())


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.mark.parametrize("data", [b"", UPGRADE])
def test_upgrade_within_10_s(setting: Setting, data: bytes) -> None:
    connection = setting.connect(data)
    setting.wait(9.9)
    assert not connection.aborted()
    setting.wait(0.2)
    assert connection.aborted()
    assert connection.transport.value() == b""


def test_first_message_within_10_s_of_the_upgrade(setting: Setting) -> None:
    connection = setting.connect()
    setting.wait(9)
    connection.say(UPGRADE + b"\r\n")
    setting.wait(9.9)
    assert connection.close_code() is None
    setting.wait(0.2)
    assert connection.close_code() == 1008
    setting.wait(1.9)
    assert not connection.aborted()
    setting.wait(0.2)
    assert connection.aborted()


def test_ping_every_54_s_and_drop_after_60(setting: Setting) -> None:
    connection = setting.connect(UPGRADE + b"\r\n" + REGISTER)
    for number in range(5):
        setting.wait(53.9)
        assert len(connection.payloads(PING)) == number
        setting.wait(0.2)
        assert len(connection.payloads(PING)) == number + 1
        connection.say(frame(b"", opcode=PONG))
    setting.wait(59.9)
    assert not connection.aborted()
    setting.wait(0.2)
    assert connection.aborted()
    assert setting.server.switchboard.hosts == 0


def test_time_in_which_the_process_was_stopped(setting: Setting) -> None:
    connection = setting.connect(UPGRADE + b"\r\n" + REGISTER)
    setting.stop(70)
    assert len(connection.payloads(PING)) == 1
    setting.wait(59.5)
    assert not connection.aborted()
    setting.wait(0.5)
    assert connection.aborted()


def test_a_holder_is_asked_by_a_process_that_is_stopped(setting: Setting) -> None:
    old = setting.connect(UPGRADE + b"\r\n" + REGISTER)
    new = setting.connect(UPGRADE + b"\r\n" + REGISTER)
    setting.stop(10)
    # It has answered long ago.
    old.say(frame(old.payloads(PING)[0], opcode=PONG))
    setting.wait(4)
    assert not old.aborted()
    assert new.close_code() == 1008


def test_a_goodbye_that_the_network_does_not_take(setting: Setting) -> None:
    connection = setting.connect(UPGRADE + b"\r\n" + REGISTER)
    setting.wait(0.1)
    connection.say(frame(b"\x03\xe8", opcode=CLOSE))
    assert connection.close_code() == 1000
    setting.wait(0.1)
    setting.wait(1.9)
    assert not connection.aborted()
    setting.wait(0.2)
    assert connection.aborted()


@pytest.mark.parametrize(
    ("end", "old_stays"),
    [
        (lambda old: old.say(frame(old.payloads(PING)[0], opcode=PONG)), True),
        (lambda old: old.say(frame(b"", opcode=PONG)), False),
        (lambda old: old.say(frame(b"", opcode=PING)), False),
        (lambda old: None, False),
    ],
)
def test_a_holder_has_3_s_to_answer(setting: Setting, end: Callable[[Connection], None], old_stays: bool) -> None:
    old = setting.connect(UPGRADE + b"\r\n" + REGISTER)
    new = setting.connect(UPGRADE + b"\r\n" + REGISTER + frame(b"am I in?", opcode=PING))
    setting.wait(2.9)
    assert len(old.payloads(PING)) == 1
    assert not old.aborted()
    assert new.payloads(TEXT) == new.payloads(PONG) == []
    end(old)
    setting.wait(0.2)
    setting.wait(0.2)
    assert old.aborted() is not old_stays
    # Only who is registered is answered.
    assert new.payloads(PONG) == ([] if old_stays else [b"am I in?"])
    assert new.close_code() == (1008 if old_stays else None)
    assert setting.server.switchboard.hosts == 1


def test_what_is_ignored_counts_too(setting: Setting) -> None:
    """Until the connection ends, which takes 2 s, its peer could keep the server busy for nothing."""
    connection = setting.connect(UPGRADE + b"\r\n" + REGISTER + b"\xff" * 10)
    assert connection.close_code() == 1002
    for _ in range(int(BYTES * ADDRESS_BURST / PIECE) + 1):
        connection.say(bytes(PIECE))
    assert connection.transport.producerState == "paused"
    setting.wait(2.1)
    assert connection.aborted()


def test_a_connection_is_forgotten_even_if_its_budgets_are_not() -> None:
    """Behind a proxy each connection has its own."""
    setting = Setting(max_per_address=0)
    host = setting.connect(UPGRADE + b"\r\n" + REGISTER)
    client = setting.connect(UPGRADE + b"\r\n" + frame(b'{"type":"offer","sender_id":"client","target_id":"host"}'))
    assert host.payloads(TEXT)
    gone = ref(client.protocol)
    client.protocol.connectionLost()
    del client
    gc.collect()
    assert gone() is None


def test_what_waits_for_a_turn_or_an_id_is_held(setting: Setting) -> None:
    setting.connect(UPGRADE + b"\r\n" + REGISTER)
    claimant = setting.connect(UPGRADE + b"\r\n" + REGISTER)
    share = Share(claimant.protocol)
    before = sum(size for size, _ in share.holdings())
    claimant.say(frame(b"x" * 60_000))
    assert sum(size for size, _ in share.holdings()) - before == 60_000
    claimant.protocol.pace._held = b"x" * 1000
    assert sum(size for size, _ in share.holdings()) - before == 61_000
