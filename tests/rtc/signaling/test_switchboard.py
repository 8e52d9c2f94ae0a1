"""Registering and routing, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st
from twisted.internet.task import Clock
from twisted.logger import Logger

from rtunnel.rtc.signaling.switchboard import (
    MAX_HELD,
    MAX_MISTAKES,
    MAX_UNANSWERED,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    Line,
    Party,
    State,
    Switchboard,
)
from rtunnel.upkeep.log_limiter import LogLimiter
from tests.leftovers import TestLog

SDP = {"sdp": {"type": "offer", "sdp": "v=0"}, "rtunnel": {"version": 1}, "new": [1.5, None, "ü"]}


class FakeLine:
    """What the switchboard did to a connection."""

    def __init__(self, board: Switchboard, name: str = "192.0.2.1:1") -> None:
        self.board = board
        self.peer_name = name
        self.party = Party(self)
        self.sent: list[dict[str, Any]] = []
        self.close_code = 0
        self.asked = 0
        self.offers = 0

    is_slow = False
    has_room = True
    budget_key = "192.0.2.1"

    def send(self, text: bytes) -> None:
        assert not self.close_code
        self.sent.append(json.loads(text))

    def close(self, code: int, reason: str) -> None:
        assert not self.close_code
        self.close_code = code

    def probe(self) -> None:
        self.asked += 1

    def takes_offer_of(self, sender: Line) -> bool:
        self.offers += self.has_room
        return self.has_room

    # What the other end does

    def say(self, kind: object, sender: str = "", target: str = "", payload: object = None) -> None:
        value = {"type": kind, "payload": payload, "target_id": target, "sender_id": sender}
        self.say_text(json.dumps({key: each for key, each in value.items() if each != ""}).encode())

    def say_text(self, text: bytes) -> None:
        self.board.receive(self.party, text)

    def leave(self) -> None:
        self.board.left(self.party)

    def take(self) -> dict[str, Any]:
        return self.sent.pop(0)

    def take_error(self, about: str = "") -> str:
        message = self.take()
        assert message.pop("type") == "error"
        text = message.pop("payload")
        assert message == ({"sender_id": about} if about else {})
        assert isinstance(text, str)
        return text


class Board(Switchboard):
    """With parties ready-made."""

    def __init__(self, hosts: int = 10, clients: int = 10, max_message: int = 65536) -> None:
        super().__init__(hosts, clients, max_message, LogLimiter(Logger(), Clock()))

    def line(self) -> FakeLine:
        return FakeLine(self)

    def host(self, name: str = "host") -> FakeLine:
        line = self.line()
        line.say("register-host", name)
        assert line.party.state is State.REGISTERED
        return line

    def client(self, name: str = "client", target: str = "host") -> FakeLine:
        line = self.line()
        line.say("offer", name, target, SDP)
        assert line.party.state is State.REGISTERED
        return line


# Routing


def test_an_offer_its_answer_and_candidates_go_both_ways() -> None:
    board = Board()
    host, client = board.host(), board.client()
    assert host.take() == {"type": "offer", "payload": SDP, "target_id": "host", "sender_id": "client"}
    host.say("candidate", "host", "client", {"candidate": {"candidate": "a"}})
    host.say("answer", "host", "client", SDP)
    client.say("candidate", "client", "host", {"candidate": {"candidate": "b"}})
    assert [message["type"] for message in client.sent] == ["candidate", "answer"]
    assert all((message["sender_id"], message["target_id"]) == ("host", "client") for message in client.sent)
    assert host.take()["payload"] == {"candidate": {"candidate": "b"}}
    assert (board.hosts, board.clients) == (1, 1)


def test_a_client_may_register_as_ours_does_on_reference_servers() -> None:
    board = Board()
    host, client = board.host(), board.host("uuid")
    client.say("offer", "uuid", "host", SDP)
    host.say("answer", "host", "uuid", SDP)
    assert client.take()["type"] == "answer"


def test_a_client_may_register_as_one() -> None:
    board = Board(hosts=1)
    host, client = board.host(), board.line()
    client.say("register-host", "uuid", payload="client")
    assert (board.hosts, board.clients) == (1, 1)
    host.say("candidate", "host", "uuid")
    assert client.take()["type"] == "candidate"


def test_the_first_message_of_a_client_may_be_a_candidate() -> None:
    board = Board()
    host, client = board.host(), board.line()
    client.say("candidate", "client", "host")
    assert host.take()["sender_id"] == "client"


def test_a_registered_party_may_leave_its_id_out() -> None:
    board = Board()
    host, client = board.host(), board.client()
    client.say("candidate", "", "host")
    assert [message["sender_id"] for message in host.sent] == ["client", "client"]


@pytest.mark.parametrize("kind", ["offer", "answer", "candidate"])
def test_an_unknown_target(kind: str) -> None:
    board = Board()
    line = board.line()
    line.say(kind, "client", "host")
    assert "'host'" in line.take_error(about="host")
    assert line.party.state is State.REGISTERED
    for _ in range(2 * MAX_MISTAKES):
        line.say(kind, "client", "host")
    assert not line.close_code


def test_a_target_that_is_gone() -> None:
    board = Board()
    host, client = board.host(), board.client()
    client.leave()
    client.leave()
    host.sent.clear()
    host.say("answer", "host", "client")
    host.take_error(about="client")


@pytest.mark.parametrize("kind", ["register-host", "offer", "candidate", "answer"])
def test_a_forged_sender_ends_the_connection(kind: str) -> None:
    board = Board()
    host, client, victim = board.host(), board.client(), board.client("victim")
    host.sent.clear()
    client.say(kind, "victim", "host", SDP)
    assert "'client'" in client.take_error(about="client")
    assert client.close_code == POLICY_VIOLATION
    assert [(message["type"], message["sender_id"]) for message in host.sent] == [("error", "client")]
    assert not victim.close_code
    assert board.clients == 1


def test_nothing_of_a_party_that_was_sent_away_is_routed() -> None:
    board = Board()
    host, client = board.host(), board.client()
    client.say("offer", "other", "host")
    host.sent.clear()
    client.say("offer", "client", "host", SDP)
    assert host.sent == []


# Mistakes

MISTAKES: list[bytes] = [
    b"",
    b"not JSON",
    b"\xff\xfe",
    b"[]",
    b"null",
    b'"offer"',
    b"{}",
    b'{"sender_id": "client", "target_id": "host"}',
    b'{"type": null, "sender_id": "client"}',
    b'{"type": 7, "sender_id": "client"}',
    b'{"type": "connect-client", "sender_id": "client", "target_id": "host"}',
    b'{"type": "\\ud800", "sender_id": "client"}',
    b'{"type": "error", "sender_id": "client", "target_id": "host", "payload": "you are doomed"}',
    b'{"type": "offer", "sender_id": "client"}',
    b'{"type": "offer", "sender_id": "client", "target_id": "client"}',
    b'{"type": "offer", "sender_id": ["client"], "target_id": "host"}',
    b'{"type": "offer", "sender_id": "client", "target_id": {"a": 1}}',
    b'{"type": "offer", "sender_id": "' + b"x" * 200 + b'", "target_id": "host"}',
    b'{"type": "offer", "sender_id": "a\\nb", "target_id": "host"}',
    b'{"type": "offer", "sender_id": "client", "target_id": "host", "payload": NaN}',
    b'{"type": "offer", "sender_id": "client", "target_id": "host", "payload": 1e999}',
    b'{"type": "offer", "sender_id": "client", "target_id": "host", "payload": ' + b"[" * 60000 + b"]" * 60000 + b"}",
    b'{"type": "offer", "sender_id": "client", "target_id": "host", "payload": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:50].decode("latin-1"))
def test_a_mistake_is_answered_and_the_connection_stays(text: bytes) -> None:
    board = Board()
    host, client = board.host(), board.line()
    client.say_text(text)
    assert client.take_error()
    assert not client.close_code
    client.say("offer", "client", "host", SDP)
    assert host.take()["payload"] == SDP
    client.say_text(text)
    assert client.take_error()
    assert host.sent == []
    assert not client.close_code


def test_a_message_is_nested_so_deeply_that_it_can_just_be_read() -> None:
    for depth in range(700, 1000):
        board = Board()
        host, client = board.host(), board.line()
        payload = b"[" * depth + b"]" * depth
        client.say_text(b'{"type":"offer","sender_id":"client","target_id":"host","payload":%b}' % payload)
        assert len(host.sent) + len(client.sent) == 1


def test_many_mistakes_end_the_connection() -> None:
    board = Board()
    client = board.line()
    for _ in range(MAX_MISTAKES - 1):
        client.say_text(b"?")
    assert not client.close_code
    client.say_text(b"?")
    assert client.close_code == POLICY_VIOLATION
    assert len(client.sent) == MAX_MISTAKES


def test_the_first_message_must_name_its_sender() -> None:
    board = Board()
    line = board.line()
    line.say("register-host")
    assert "sender_id" in line.take_error()
    assert board.hosts == 0


def test_a_host_registers_once() -> None:
    board = Board()
    host = board.host()
    host.say("register-host", "host")
    assert "second" in host.take_error()
    assert board.hosts == 1


def test_a_message_that_grows_is_not_passed_on() -> None:
    # In bytes that came it has 30, in the ASCII that we write 90.
    board = Board(max_message=150)
    host = board.host()
    client = board.line()
    client.say_text('{"type":"offer","sender_id":"client","target_id":"host","payload":"üüüüüüüüüüüüüüü"}'.encode())
    assert "too large" in client.take_error()
    assert host.sent == []


def test_the_text_of_a_peer_in_an_error_is_clean() -> None:
    board = Board()
    line = board.line()
    line.say("a\nb")
    assert "\n" not in line.take_error()


@given(st.lists(st.binary(max_size=40) | st.sampled_from(MISTAKES), max_size=15))
def test_no_bytes_raise(texts: list[bytes]) -> None:
    board = Board()
    board.host()
    line = board.line()
    for text in texts:
        line.say_text(text)


# Limits


def test_as_many_hosts_and_clients_as_allowed() -> None:
    board = Board(hosts=1, clients=1)
    host, client = board.host(), board.client()
    for kind in ("register-host", "offer"):
        line = board.line()
        line.say(kind, "more", "host")
        assert "too many" in line.take_error(about="more")
        assert line.close_code == TRY_AGAIN_LATER
    host.leave()
    client.leave()
    board.host("other")
    board.client("client", "other")
    assert (board.hosts, board.clients) == (1, 1)


# An ID that is taken


@pytest.mark.parametrize("kind", ["register-host", "offer"])
def test_a_taken_id_is_refused_when_its_holder_answers(kind: str) -> None:
    board = Board()
    host, newcomer = board.host(), board.line()
    newcomer.say(kind, "host", "other")
    assert (host.asked, newcomer.sent, newcomer.close_code) == (1, [], 0)
    board.probe_answered(host.party)
    assert "in use" in newcomer.take_error(about="host")
    assert newcomer.close_code == POLICY_VIOLATION
    assert host.party.state is State.REGISTERED
    board.probe_answered(host.party)


def test_a_dead_holder_gives_way_and_nothing_of_the_newcomer_is_lost() -> None:
    board = Board()
    host, old = board.host(), board.client()
    host.say("answer", "host", "client")
    new = board.line()
    host.sent.clear()
    new.say("offer", "client", "host", "new")
    new.say("candidate", "client", "host", "more")
    assert host.sent == []
    old.leave()
    assert [message["payload"] for message in host.sent] == ["new", "more"]
    host.say("answer", "host", "client", "for the new one")
    assert new.take()["payload"] == "for the new one"
    assert board.clients == 1


def test_a_host_comes_back_while_its_dead_connection_is_there() -> None:
    board = Board()
    old, new = board.host(), board.line()
    new.say("register-host", "host")
    old.leave()
    client = board.client()
    assert new.take()["type"] == "offer"
    assert client.sent == []
    assert board.hosts == 1


def test_one_newcomer_waits_for_an_id_and_others_are_refused() -> None:
    board = Board()
    host, first, second = board.host(), board.line(), board.line()
    first.say("register-host", "host")
    second.say("register-host", "host")
    assert "in use" in second.take_error(about="host")
    assert second.close_code == POLICY_VIOLATION
    assert not first.close_code
    host.leave()
    assert first.party.state is State.REGISTERED


def test_a_newcomer_that_goes_makes_room_for_another() -> None:
    board = Board()
    host, first, second = board.host(), board.line(), board.line()
    first.say("register-host", "host")
    first.leave()
    board.probe_answered(host.party)
    second.say("register-host", "host")
    host.leave()
    assert second.party.state is State.REGISTERED
    assert first.party.state is State.GONE


def test_a_newcomer_that_says_too_much_is_sent_away() -> None:
    board = Board()
    host, newcomer = board.host(), board.line()
    for _ in range(MAX_HELD):
        newcomer.say("offer", "host", "other")
    assert not newcomer.close_code
    newcomer.say("offer", "host", "other")
    assert newcomer.close_code == POLICY_VIOLATION
    assert newcomer.party.held == []
    board.probe_answered(host.party)


def test_a_newcomer_waits_for_the_limit_of_hosts_too() -> None:
    board = Board(hosts=1)
    old, new = board.client("host", "nobody"), board.line()
    board.host("other")
    new.say("register-host", "host")
    old.leave()
    assert "too many" in new.take_error(about="host")


# Offers without an answer


def test_a_host_is_told_when_a_client_goes_before_its_answer() -> None:
    board = Board()
    host, client = board.host(), board.client()
    host.take()
    client.leave()
    assert "'client'" in host.take_error(about="client")


def test_a_host_is_not_told_when_a_client_goes_after_its_answer() -> None:
    board = Board()
    host, client = board.host(), board.client()
    host.take()
    host.say("answer", "host", "client")
    client.leave()
    assert host.sent == []


def test_a_host_is_told_of_the_second_offer_too() -> None:
    board = Board()
    host, client = board.host(), board.client()
    host.say("answer", "host", "client")
    client.say("offer", "client", "host")
    host.sent.clear()
    client.leave()
    host.take_error(about="client")


def test_a_client_is_told_when_the_host_goes_before_its_answer() -> None:
    board = Board()
    host, client, other = board.host(), board.client(), board.client("other")
    host.say("answer", "host", "other")
    other.sent.clear()
    host.leave()
    client.take_error(about="host")
    assert other.sent == []


def test_a_hundred_clients_that_vanish() -> None:
    board = Board(clients=100)
    host = board.host()
    clients = [board.client(f"client {number}") for number in range(100)]
    host.sent.clear()
    for client in clients:
        client.leave()
    assert [message["sender_id"] for message in host.sent] == [f"client {number}" for number in range(100)]
    assert host.party.offers_from == {}
    assert board.clients == 0


def test_what_is_remembered_of_offers_is_bounded() -> None:
    board = Board(hosts=MAX_UNANSWERED + 1)
    hosts = [board.host(f"host {number}") for number in range(MAX_UNANSWERED + 1)]
    client = board.client("client", "host 0")
    for number in range(1, MAX_UNANSWERED + 1):
        client.say("offer", "client", f"host {number}")
    assert len(client.party.offers_to) == MAX_UNANSWERED
    assert [len(host.party.offers_from) for host in hosts] == [0] + [1] * MAX_UNANSWERED
    for host in hosts:
        host.sent.clear()
    client.leave()
    assert [len(host.sent) for host in hosts] == [0] + [1] * MAX_UNANSWERED


# The log


@pytest.fixture
def log(_nothing_left_behind: TestLog) -> TestLog:
    return _nothing_left_behind


def test_a_line_when_a_host_comes_and_goes(log: TestLog) -> None:
    board = Board()
    host = board.host()
    board.client().leave()
    host.leave()
    lines = [event for event in log.events if event["log_level"].name == "info"]
    assert [(event["kind"], event["id"], event["what"]) for event in lines] == [
        ("host", "host", "registered"),
        ("host", "host", "gone"),
    ]


def test_who_reads_slowly_gets_no_more_of_others() -> None:
    board = Board()
    host, client = board.host(), board.client()
    host.sent.clear()
    host.is_slow = True
    client.say("offer", "client", "host", SDP)
    assert "reads too slowly" in client.take_error(about="host")
    assert (host.sent, host.offers) == ([], 1)
    host.is_slow = False
    client.say("offer", "client", "host", SDP)
    assert host.take()["type"] == "offer"


def test_who_gets_an_offer_may_answer() -> None:
    board = Board()
    host, client = board.host(), board.client()
    assert (host.offers, client.offers) == (1, 0)
    client.say("candidate", "client", "host")
    assert host.offers == 1


def test_too_many_offers_are_refused_and_the_connection_stays() -> None:
    board = Board()
    host, client = board.host(), board.client()
    host.sent.clear()
    host.has_room = False
    client.say("offer", "client", "host", SDP)
    assert "too many offers" in client.take_error(about="host")
    client.say("candidate", "client", "host", {})
    assert [message["type"] for message in host.sent] == ["candidate"]
    host.has_room = True
    client.say("offer", "client", "host", SDP)
    assert host.sent[-1]["type"] == "offer"


def test_hosts_that_come_and_go_cannot_fill_the_log(log: TestLog) -> None:
    board = Board()
    for number in range(100):
        board.host(f"host {number}").leave()
    assert 10 < len([event for event in log.events if event["log_level"].name == "info"]) < 50
