"""Registering and routing, without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rtunnel.rtc.signaling.party import POLICY_VIOLATION, State
from rtunnel.rtc.signaling.switchboard import MAX_MISTAKES
from tests.rtc.signaling.switchboard_parts import SDP, Board

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


def test_invitations_are_tried_by_the_addresses_that_may() -> None:
    board = Board()
    invitation = board.host("rtunnel-invite-7")
    client = board.client(target="rtunnel-invite-7")
    assert invitation.take()["sender_id"] == "client"
    # Whether there is one or not.
    client.say("offer", "client", "rtunnel-invite-8", {"pake": ""})
    assert client.take_error("rtunnel-invite-8") == "there is no 'rtunnel-invite-8'"
    assert board.tries == [client.budget_key] * 2
    # Other messages, and those to others, do not count.
    board.host()
    client.say("candidate", "client", "rtunnel-invite-7", {})
    client.say("offer", "client", "host", SDP)
    assert len(board.tries) == 2


def test_whoever_tries_too_many_invitations_learns_nothing() -> None:
    board = Board()
    board.tries_left = 0
    invitation = board.host("rtunnel-invite-7")
    client = board.client(target="rtunnel-invite-7")
    client.say("offer", "client", "rtunnel-invite-8", {"pake": ""})
    assert "too many codes" in client.take_error("rtunnel-invite-7")
    assert "too many codes" in client.take_error("rtunnel-invite-8")
    assert invitation.sent == []
    assert invitation.offers == 0
