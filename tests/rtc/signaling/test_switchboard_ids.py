"""Limits of the switchboard, an ID that is taken, offers without an answer, and the log."""

from __future__ import annotations

import pytest

from rtunnel.rtc.signaling.party import POLICY_VIOLATION, TRY_AGAIN_LATER, State
from rtunnel.rtc.signaling.switchboard import MAX_HELD, MAX_UNANSWERED
from tests.leftovers import TestLog
from tests.rtc.signaling.switchboard_parts import SDP, Board


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


# A holder that comes again


def test_who_has_the_key_of_an_id_gets_it_at_once() -> None:
    board = Board()
    old = board.line()
    old.say("register-host", "host", key="secret")
    client = board.client("client", "host")
    client.say("offer", "client", "host", "lost on the way")
    new = board.line()
    new.say("register-host", "host", key="secret")
    assert (old.asked, old.close_code, old.party.state) == (0, POLICY_VIOLATION, State.GONE)
    assert new.party.state is State.REGISTERED
    # The client hears that its offer was lost, and makes it again.
    assert "gone" in client.take_error(about="host")
    client.say("offer", "client", "host", "again")
    assert [message["payload"] for message in new.sent] == ["again"]
    assert (board.hosts, board.clients) == (1, 1)


def test_who_has_the_key_goes_before_somebody_who_waits_for_the_id() -> None:
    board = Board()
    old, other, new = board.line(), board.line(), board.line()
    old.say("register-host", "host", key="secret")
    other.say("register-host", "host", key="guess")
    new.say("register-host", "host", key="secret")
    assert "in use" in other.take_error(about="host")
    assert (other.close_code, other.party.state) == (POLICY_VIOLATION, State.GONE)
    assert new.party.state is State.REGISTERED
    board.probe_answered(old.party)


@pytest.mark.parametrize(("old_key", "new_key"), [("", ""), ("", "guess"), ("secret", ""), ("secret", "guéss")])
def test_who_has_not_the_key_waits_for_the_holder(old_key: str, new_key: str) -> None:
    board = Board()
    old, new = board.line(), board.line()
    old.say("register-host", "host", key=old_key)
    new.say("register-host", "host", key=new_key)
    assert (old.asked, old.close_code, new.party.state) == (1, 0, State.WAITING)


def test_the_key_goes_to_nobody() -> None:
    board = Board()
    host, client = board.host(), board.client("client", "host")
    client.say("offer", "client", "host", "hello", key="secret")
    assert all("secret" not in str(message) for message in host.sent)


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
