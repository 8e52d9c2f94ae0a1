"""What no honest node of a cluster sends to another one."""

from __future__ import annotations

import json

import pytest

from rtunnel.cluster.memory import MemoryDirectory
from rtunnel.rtc.signaling import crossing
from rtunnel.rtc.signaling.party import State
from tests.leftovers import TestLog
from tests.rtc.signaling.cluster_parts import Cluster, SlowDirectory, said
from tests.rtc.signaling.switchboard_parts import SDP

both = pytest.mark.parametrize("build", [MemoryDirectory, SlowDirectory])


def passed(sender: str, target: str, kind: str = "offer", payload: object = None, **more: object) -> str:
    return json.dumps({"type": kind, "payload": payload, "sender_id": sender, "target_id": target, **more})


def test_nobody_speaks_as_somebody_who_is_elsewhere() -> None:
    cluster = Cluster()
    one, two = cluster.two()
    evil = cluster.node()
    host, client = one.host(), two.client()
    cluster.turn()
    said(host)
    evil.whisper(one, do="pass", text=passed("client", "host"), key="x")
    evil.whisper(one, do="pass", text=passed("nobody", "host"), key="x")
    evil.whisper(two, do="pass", text=passed("host", "client", "answer"), key="x")
    # Not even as somebody who is where the message comes to.
    evil.whisper(one, do="pass", text=passed("host", "client", "answer"), key="x")
    evil.whisper(two, do="gone", id="host")
    evil.whisper(two, do="return", to="client", text=passed("host", "", "error", "go away"))
    evil.whisper(two, do="return", to="client", text=passed("", "", "error", "go away"))
    evil.whisper(one, do="moved", id="host")
    evil.whisper(one, do="free", id="host")
    assert not said(host) + said(client)
    assert client.party.state is host.party.state is State.REGISTERED
    host.say("answer", target="client", payload=SDP)
    cluster.turn()
    assert said(client) == ["answer"]
    assert cluster.is_at_rest()


@pytest.fixture
def log(_nothing_left_behind: TestLog) -> TestLog:
    return _nothing_left_behind


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"do": None},
        {"do": ["pass"]},
        {"do": "pass"},
        {"do": "pass", "text": 5, "key": "x"},
        {"do": "pass", "text": "{", "key": "x"},
        {"do": "pass", "text": passed("far", "host"), "key": 5},
        {"do": "pass", "text": passed("far", "host"), "key": "x" * 1000},
        {"do": "pass", "text": passed("far", "host", "register-host"), "key": "x"},
        {"do": "pass", "text": passed("far", "host", "error"), "key": "x"},
        {"do": "pass", "text": passed("", "host"), "key": "x"},
        {"do": "pass", "text": passed("far", ""), "key": "x"},
        {"do": "pass", "text": passed("far", "far"), "key": "x"},
        {"do": "pass", "text": passed("far", "host", payload="x" * 70_000), "key": "x"},
        {"do": "pass", "text": '{"type":"offer","payload":NaN,"sender_id":"far","target_id":"host"}', "key": "x"},
        {"do": "pass", "text": "\ud800", "key": "x"},
        {"do": "pass", "text": "[" * 60_000, "key": "x"},
        {"do": "return", "to": "host", "text": passed("far", "", "offer")},
        {"do": "return", "to": 5, "text": passed("far", "", "error")},
        {"do": "gone", "id": "\n"},
        {"do": "gone"},
        {"do": "try", "key": None},
        {"do": "probe", "id": ""},
        {"do": "moved", "id": "far" * 100},
        {"do": "unknown", "id": "far"},
    ],
)
def test_malformed_messages_do_nothing(message: dict[str, object], log: TestLog) -> None:
    cluster = Cluster()
    one, evil = cluster.two()
    host, far = one.host(), evil.host("far")
    evil.whisper(one, **message)
    assert not said(host) + said(far)
    assert host.party.state is State.REGISTERED
    assert any("sent what is not used" in str(each.get("log_format")) for each in log.events)
    assert cluster.is_at_rest()


def test_a_flood_from_a_node_is_bounded() -> None:
    cluster = Cluster()
    one, evil = cluster.two()
    host = one.host()
    evil.host("far")
    for _ in range(3000):
        evil.directory._shared._members[one.name]._listeners["signal"](
            evil.name, {"do": "pass", "text": passed("far", "host", "candidate"), "key": "x"}
        )
    assert 0 < len(said(host)) <= 10 * one.settings.max_rate


def test_what_waits_to_be_checked_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing, "MAX_UNHEARD", 50_000)
    cluster = Cluster()
    one, evil = cluster.two(SlowDirectory)
    host = one.host()
    for number in range(1000):
        text = passed(f"nobody {number}", "host", payload="x" * 1000)
        one.directory._listeners["signal"](evil.name, {"do": "pass", "text": text, "key": "x"})
    assert 0 < one.crossing._unheard[evil.name] <= 50_000
    assert len(one.crossing._inboxes) < 50
    cluster.turn()
    assert not said(host)
    assert cluster.is_at_rest()


def test_who_answers_many_offers_is_no_flood() -> None:
    cluster = Cluster()
    one, two = cluster.two(max_per_address=0)
    host = one.host()
    clients = [two.client(f"client {number}") for number in range(120)]
    for number in range(120):
        host.say("answer", target=f"client {number}", payload=SDP)
        for _ in range(7):
            host.say("candidate", target=f"client {number}", payload={})
    cluster.turn()
    assert [said(each) for each in clients] == [["answer"] + ["candidate"] * 7] * 120
