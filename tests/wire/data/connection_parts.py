"""Ends of data connections, and what they are told, for tests of one end and of both."""

from __future__ import annotations

from rtunnel.wire.data.connection import DataConnection, Ended, Opened, WasReset
from tests.wire.data.ends import (
    DONE,
    END,
    LIMITS,
    NOW,
    OPEN,
    opening,
    parse,
)

REFUSED = b"limit\0full"


def receive(end: DataConnection, kind: int, number: int, payload: bytes = b"") -> Opened | Ended | WasReset | None:
    return end.receive(kind, number, memoryview(payload))


def fresh(*, is_server: bool) -> DataConnection:
    return DataConnection(LIMITS, None, NOW, is_server=is_server)


def server() -> DataConnection:
    """Return a server's end with stream 1 open."""
    end = fresh(is_server=True)
    assert parse(end.open(3, "192.0.2.1:5000")) == [(OPEN, 1, opening(3))]
    return end


def client() -> DataConnection:
    """Return a client's end with stream 1 open."""
    end = fresh(is_server=False)
    assert receive(end, OPEN, 1, opening(3)) == Opened(3, 0, "192.0.2.1:5000")
    return end


def takes_next(end: DataConnection) -> bool:
    """Return whether the next stream can be opened at this end."""
    number = end.number + 1
    if not end.is_free:
        return False
    if end.is_server:
        end.open(0, "")
    else:
        receive(end, OPEN, number, opening(0))
    return end.number == number and end.takes_data


def after_both_ends() -> list[DataConnection]:
    at_server, at_client = server(), client()
    at_server.end()
    receive(at_client, END, 1)
    at_client.end()
    receive(at_server, DONE, 1)
    return [at_server, at_client]
