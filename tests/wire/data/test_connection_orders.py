"""Both ends of a data connection, in every order in which they can act."""

from __future__ import annotations

import copy
from typing import NamedTuple

from rtunnel.wire.data.connection import DataConnection, Ended, WasReset
from tests.wire.data.connection_parts import fresh, receive
from tests.wire.data.ends import (
    DATA,
    Record,
    parse,
)


class State(NamedTuple):
    """Both ends, what is under way from each, and which streams each end has seen whole."""

    server: DataConnection
    client: DataConnection
    to_client: tuple[Record, ...]
    to_server: tuple[Record, ...]
    whole: tuple[frozenset[int], frozenset[int]]

    @property
    def key(self) -> object:
        """The same for states in which the same can happen."""
        ends = [tuple(getattr(end, name) for name in DataConnection.__slots__) for end in (self.server, self.client)]
        return ends[0], ends[1], self[2:]


def after(state: State, action: str) -> State | None:
    """Return the state after an action; None if it is not possible."""
    server, client = copy.copy(state.server), copy.copy(state.client)
    to_client, to_server = list(state.to_client), list(state.to_server)
    whole = [set(of) for of in state.whole]
    who, what = action.split()
    side = 0 if who == "server" else 1
    end, out, incoming = ((server, to_client, to_server), (client, to_server, to_client))[side]
    if what == "open":
        sent = end.open(0, "") if end.can_open and end.number < 2 else b""
    elif what == "end":
        sent = end.end()
    elif what == "reset":
        sent = end.reset("test", "")
    elif what == "data":
        may = not (end.is_free or end._sent_end or end._sent_reset) and len(out) < 3
        sent = end.pack(DATA, b"x") if may else b""
    elif incoming:
        kind, number, payload = incoming.pop(0)
        assert not (kind == DATA and end.takes_data and number != end.number)
        event = receive(end, kind, number, payload)
        sent = event.answer if isinstance(event, Ended | WasReset) else b""
        if isinstance(event, WasReset):
            whole[side].discard(end.number)
    else:
        return None
    if not sent and what != "receive":
        return None
    out += parse(sent)
    if end.is_free and end.number and not (end._sent_reset or end._got_reset):
        whole[side].add(end.number)
    return State(server, client, tuple(to_client), tuple(to_server), (frozenset(whole[0]), frozenset(whole[1])))


def test_both_ends_agree_whatever_crosses_on_the_way() -> None:
    """All states that two honest ends can reach with two streams."""
    first = State(fresh(is_server=True), fresh(is_server=False), (), (), (frozenset(), frozenset()))
    actions = [f"{who} {what}" for who in ("server", "client") for what in ("data", "end", "reset", "receive")]
    seen, ahead, free = {first.key}, [first], 0
    while ahead:
        state = ahead.pop()
        for action in ("server open", *actions):
            following = after(state, action)
            if following is None or following.key in seen:
                continue
            seen.add(following.key)
            ahead.append(following)
            server, client, to_client, to_server, whole = following
            assert whole[0] <= whole[1], "the server has the client's word that it has everything"
            if not (to_client or to_server):
                assert (server.number, server.is_free) == (client.number, client.is_free)
                if server.is_free:
                    free += 1
                    assert whole[0] == whole[1], "both ends saw the same end"
                else:
                    assert not all(end._sent_end for end in (server, client)), "nobody waits for ever"
                    assert not any(end._sent_reset for end in (server, client)), "nobody waits for ever"
    assert free > 2
    assert len(seen) > 1000
