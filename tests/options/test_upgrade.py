"""What two processes say to each other at an upgrade."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtunnel.errors import ConfigError
from rtunnel.options.upgrade import predecessor
from rtunnel.options.upgrade.channel import AT_ONCE, Broken, Channel
from rtunnel.options.upgrade.notify import notify
from rtunnel.relay.inheritance import Inheritance
from tests.patience import PATIENCE

Ends = tuple[Channel, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A channel, and the socket at its other end."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    with ours, theirs:
        yield Channel(ours), theirs


class TestChannel:
    def test_a_message(self, ends: Ends) -> None:
        channel, other = ends
        channel.send({"go": True})
        assert Channel(other).receive(PATIENCE) == {"go": True}

    def test_a_long_message_with_sockets(self, ends: Ends) -> None:
        """More than one message of the kernel takes of either."""
        channel, other = ends
        count = 2 * AT_ONCE + 1
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        message = {"state": "x" * 1_000_000}
        sender = threading.Thread(target=channel.send, args=(message, [sock.fileno() for sock in sockets]))
        sender.start()
        receiver = Channel(other)
        assert receiver.receive(PATIENCE) == message
        found = receiver.receive_sockets(count, PATIENCE)
        sender.join(PATIENCE)
        assert [sock.getsockname() for sock in found] == [sock.getsockname() for sock in sockets]
        assert not any(os.get_inheritable(sock.fileno()) for sock in found)
        for sock in (*found, *sockets):
            sock.close()

    @pytest.mark.parametrize(
        "said",
        [
            pytest.param(struct.pack("!I", 2**32 - 1), id="too long"),
            pytest.param(struct.pack("!I", 2) + b"[]", id="no object"),
            pytest.param(struct.pack("!I", 3) + b"no!", id="no JSON"),
            pytest.param(struct.pack("!I", 2) + b"\xff\xff", id="no text"),
        ],
    )
    def test_what_makes_no_sense(self, ends: Ends, said: bytes) -> None:
        channel, other = ends
        other.sendall(said)
        with pytest.raises(Broken, match="it says what makes no sense"):
            channel.receive(PATIENCE)

    def test_the_end(self, ends: Ends) -> None:
        channel, other = ends
        other.sendall(b"\0\0")
        other.close()
        with pytest.raises(Broken, match="it has ended"):
            channel.receive(PATIENCE)
        with pytest.raises(Broken, match="it has ended"):
            channel.send({})
        with pytest.raises(Broken, match="it has ended"):
            channel.receive_sockets(1, PATIENCE)

    def test_too_slow(self, ends: Ends) -> None:
        with pytest.raises(Broken, match="it does not answer in time"):
            ends[0].receive(0.01)

    def test_no_sockets_come(self, ends: Ends) -> None:
        channel, other = ends
        other.sendall(b".")
        with pytest.raises(Broken, match="may not have so many descriptors"):
            channel.receive_sockets(1, PATIENCE)


class TestPredecessor:
    def test_none(self) -> None:
        environ = {"HOME": "/"}
        predecessor.find(environ)
        assert environ == {"HOME": "/"}
        assert predecessor.current() is None

    @pytest.mark.parametrize("named", ["", "x", "-1", "100000", "0"])
    def test_set_by_hand(self, named: str) -> None:
        environ = {"RTUNNEL_UPGRADE": named}
        with pytest.raises(ConfigError, match="RTUNNEL_UPGRADE is for 'rtunnel upgrade' only; unset it"):
            predecessor.find(environ)
        assert environ == {}
        assert predecessor.current() is None


class TestNotify:
    @pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "x"}, {"NOTIFY_SOCKET": "/nowhere/x"}])
    def test_nobody_wants_to_know(self, environ: dict[str, str]) -> None:
        notify("READY=1", environ=environ)

    @pytest.mark.parametrize("kind", ["path", "abstract"])
    def test_systemd(self, kind: str, tmp_path: Path) -> None:
        path = str(tmp_path / "n")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(path if kind == "path" else "\0" + path)
            systemd.settimeout(PATIENCE)
            notify("READY=1", environ={"NOTIFY_SOCKET": path if kind == "path" else "@" + path})
            assert systemd.recv(100) == b"READY=1"


def test_what_nobody_takes_is_closed() -> None:
    left = Inheritance()
    sockets = [socket.socket() for _ in range(3)]
    left.fill(["public 8080", "http", "https"], sockets)
    assert left.take("http") is sockets[1]
    assert left.take("http") is None
    left.close(but="public ")
    assert [sock.fileno() >= 0 for sock in sockets] == [True, True, False]
    left.close()
    assert [sock.fileno() >= 0 for sock in sockets] == [False, True, False]
    sockets[1].close()
