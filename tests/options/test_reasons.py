"""Errors of the system and of Twisted, in the words of an operator."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import error, tcp
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.reasons import cannot_listen, reason_and_advice, reason_of, why_not_listening
from tests.ports import free_port


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (
            error.TimeoutError(),
            "no answer in time (is the port open in all firewalls on the way, and the address",
        ),
        (error.TimeoutError(string="nas.lan is still being looked up"), "nas.lan is still being looked up"),
        (error.TCPTimedOutError(errno.ETIMEDOUT, "x"), "no answer in time (is the port open in"),
        (error.NoRouteError(errno.ENETUNREACH, "x"), "network is unreachable (does this machine have a network, and a"),
        (error.ConnectError(errno.EHOSTUNREACH, "x"), "no route to host (is that machine up, and the address right?)"),
        (error.ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused (is it running there, and is the"),
        (
            error.DNSLookupError("no results for hostname lookup: a.example"),
            "its name cannot be resolved (is it",
        ),
        (socket.gaierror(-2, "Name or service not known"), "its name cannot be resolved (is it"),
        (error.ConnectError(errno.EADDRNOTAVAIL, "x"), "cannot assign requested address"),
        # Twisted puts this together when the reactor reports an error before the system was asked for it.
        (error.ConnectError(string=Failure(error.ConnectionLost("Connection lost"))), "no connection is possible"),
        (error.ConnectError(string="odd"), "An error occurred while connecting: odd"),
        (error.ConnectionDone(), "the other end closed the connection"),
        (error.ConnectionLost("Connection lost"), "the connection was reset or timed out"),
        (OSError(errno.EMFILE, "x"), "too many open files"),
        (ValueError("a full stop."), "a full stop"),
        (ValueError(), "ValueError"),
    ],
)
def test_reasons(raised: Exception, words: str) -> None:
    text = reason_and_advice(Failure(raised))
    assert text.startswith(words)
    assert text.startswith(reason_of(raised))
    assert "\n" not in text


@ensureDeferred
async def test_a_connection_that_the_reactor_finds_broken_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system knows why, but the reactor's poll has reported the error without an event for reading."""
    from twisted.internet import reactor

    def broken(client: Any) -> None:
        client.connectionLost(Failure(error.ConnectionLost("Connection lost")))

    monkeypatch.setattr(tcp.Client, "doConnect", broken)
    with pytest.raises(error.ConnectError) as caught:
        await DialAddress.parse("127.0.0.1:9").endpoint(reactor, 1.0).connect(Factory.forProtocol(Protocol))
    assert "Traceback" in str(caught.value)
    assert reason_and_advice(caught.value) == "no connection is possible"


def test_why_not_listening() -> None:
    assert why_not_listening(ValueError("no such thing")) == "no such thing"
    assert why_not_listening(error.CannotListenError("", 80, OSError(errno.EACCES, "Denied"))) == "Denied"


def listening_error(setting: str) -> str:
    """What is said when the system refuses an address."""
    from twisted.internet import reactor

    failures: list[Failure] = []
    ListenAddress.parse(setting).endpoint(reactor).listen(Factory.forProtocol(Protocol)).addErrback(failures.append)
    (failure,) = failures
    return cannot_listen(setting, "control port", "--control-listen", failure.value)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        text = listening_error(f"127.0.0.1:{taken.getsockname()[1]}")
    assert text.endswith(
        "(control port): Address already in use; stop what holds it, or choose another address with --control-listen"
    )


def test_a_low_port() -> None:
    refused = error.CannotListenError("", 80, PermissionError(errno.EACCES, "Permission denied"))
    assert cannot_listen(":80", "control port", "--control-listen", refused) == (
        "cannot listen on :80 (control port): Permission denied; low ports need the capability CAP_NET_BIND_SERVICE, "
        "in a systemd unit AmbientCapabilities=CAP_NET_BIND_SERVICE; or choose a port from 1024 on with "
        "--control-listen"
    )


def test_an_address_of_another_machine() -> None:
    text = listening_error("192.0.2.77:0")
    assert "Cannot assign requested address; this machine has " in text
    assert "127.0.0.1" in text
    assert text.endswith("; choose one of these with --control-listen")


def test_a_unix_socket_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert listening_error(f"unix:{tmp_path}/no/x.sock").endswith(
        "No such file or directory; make its directory, or choose another path with --control-listen"
    )


def test_the_lock_of_a_unix_socket(tmp_path: Path) -> None:
    """As a killed container leaves it: the process ID means another program now."""
    path = tmp_path / "x.sock"
    lock = tmp_path / "x.sock.lock"
    lock.symlink_to(str(os.getpid()))
    assert listening_error(f"unix:{path}").endswith(
        f"process {os.getpid()} holds {lock}: stop it, or choose another path with --control-listen; if it is another "
        "program, remove that file"
    )


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "let this user write to its directory, or choose another path with --control-listen"),
        (errno.EADDRINUSE, "stop what listens there, or remove the file; or choose another path with --control-listen"),
        (errno.EIO, "choose another path with --control-listen"),
    ],
)
def test_other_errors_of_unix_sockets(number: int, remedy: str, tmp_path: Path) -> None:
    refused = OSError(number, os.strerror(number))
    text = cannot_listen(f"unix:{tmp_path}/x.sock:mode=600", "control port", "--control-listen", refused)
    assert text.endswith(f"{os.strerror(number)}; {remedy}")
