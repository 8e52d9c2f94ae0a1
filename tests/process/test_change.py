"""``rtunnel log-level`` and ``rtunnel disconnect`` with real processes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, poll
from tests.process.rtc import ID, RtcTunnel
from tests.process.services import LOOPBACK, Service, Tunnel, Visitor, fetch, get, page, read_all
from tests.process.verbs import look, say

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]
StartRtc = Callable[..., RtcTunnel]


@pytest.fixture(autouse=True)
def directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the control sockets of this test are."""
    path = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(path))
    return path


def test_log_level(twistd: Twistds, serve: Serve, start_tunnel: StartTunnel) -> None:
    tunnel = start_tunnel(serve(GET=page("here")).address)
    assert say(twistd, "log-level", "rtunnel-client") == (0, "log level: info\n")
    for process, name in ((tunnel.client, "rtunnel-client"), (tunnel.server, str(tunnel.server.pid))):
        assert say(twistd, "log-level", "debug", name) == (0, "log level: debug (was info)\n")
        process.wait_for("log level debug from now on; it was info")
    seen = [len(tunnel.server.output), len(tunnel.client.output)]
    assert fetch(tunnel.public) == "here"
    tunnel.server.wait_for(rf"visitor {LOOPBACK}:\d+", after=seen[0])
    tunnel.client.wait_for(rf"visitor {LOOPBACK}:\d+", after=seen[1])
    assert say(twistd, "log-level", "warn", "rtunnel-client") == (0, "log level: warn (was debug)\n")
    seen[1] = len(tunnel.client.output)
    assert fetch(tunnel.public) == "here"
    assert tunnel.client.terminate() == 0
    assert tunnel.client.output[seen[1] :] == ""


def test_which_process_is_meant(twistd: Twistds, serve: Serve, start_tunnel: StartTunnel) -> None:
    code, said = say(twistd, "log-level")
    assert code == 1
    assert said.startswith("rtunnel log-level: no rtunnel process with a control socket is running for this user (in ")
    tunnel = start_tunnel(serve(GET=page("here")).address)
    pids = {"client": tunnel.client.pid, "server": tunnel.server.pid}
    code, said = say(twistd, "log-level", "debug")
    assert code == 1
    assert said == (
        f"rtunnel log-level: 2 processes are running: rtunnel-client {pids['client']}, rtunnel-server "
        f"{pids['server']}; add the number of the one that is meant\n"
    )
    for arguments, error in (
        (("log-level", "loud"), "'loud' is no level; levels are debug, info, warn, error"),
        (("log-level", "inof"), "'inof' is no level; did you mean 'info'?"),
        (("log-level", "info", "client"), "'client' is no name of a service; write one of rtunnel-server, "),
        (("log-level", "info", "rtc-host"), "no rtc-host with a control socket is running for this user (in "),
        (("log-level", "info", "rtc-host", "x"), "name one process; remove 'x'"),
        (("log-level", "info", "1"), "no process 1 with a control socket is running for this user (in "),
        # As of a variable that is not set: the only process must not be meant.
        (("log-level", "info", ""), "the name of the process is empty; write a name or a process id, or leave it out"),
        (("drain", ""), "the name of the process is empty"),
        (("reload", ""), "the name of the process is empty"),
        (("upgrade", ""), "the name of the process is empty"),
        (("disconnect", "x", ""), "the name of the process is empty"),
        (("disconnect",), "name who is to be disconnected, as 'rtunnel status' shows it"),
        (("disconnect", "a", "rtunnel-server", "b"), "disconnect one at a time; remove 'b'"),
        (("disconnect", "x", "rtunnel-client"), "this is not for rtunnel-client, but for rtunnel-server, rtc-signal, "),
        (("disconnect", "x", str(pids["client"])), f"process {pids['client']} is rtunnel-client; this is for rtunnel-"),
    ):
        code, said = say(twistd, *arguments)
        assert code == 1
        assert said.startswith(f"rtunnel {arguments[0]}: {error}"), said


def test_disconnect_a_client(twistd: Twistds, serve: Serve, start_tunnel: StartTunnel, tmp_path: Path) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {token: abcdefgh}\n")
    clients.chmod(0o600)
    service = serve(GET=page("here"), get=get)
    options = ["--reconnect-min=0.1", "--reconnect-max=1"]
    tunnel = start_tunnel(service.address, server=[f"--clients={clients}"], client=["--token=abcdefgh", *options])
    visitor = tunnel.visit(b"get 1000000000 1")
    assert visitor.recv(1)
    code, said = say(twistd, "disconnect", "lapotp")
    assert (code, said) == (
        1,
        "rtunnel disconnect: nobody is connected as 'lapotp'; did you mean 'laptop'?\n",
    )
    seen = len(tunnel.client.output)
    assert say(twistd, "disconnect", "laptop") == (0, "disconnected: 1 connection of laptop\n")
    tunnel.client.wait_for("lost: disconnected: disconnected by the operator; next attempt in ", after=seen)
    with pytest.raises(ConnectionResetError), visitor:
        read_all(visitor)
    tunnel.wait_for_client(after=seen)
    assert fetch(tunnel.public) == "here"
    [client] = look(twistd, "rtunnel-server")["clients"]
    seen = len(tunnel.client.output)
    assert say(twistd, "disconnect", client["address"], "rtunnel-server")[0] == 0
    tunnel.client.wait_for("lost: disconnected: ", after=seen)
    tunnel.wait_for_client(after=seen)


def test_disconnect_all_links_of_a_client(twistd: Twistds, serve: Serve, tmp_path: Path) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text("a: {token: aaaaaaaa}\nb: {token: bbbbbbbb}\n")
    clients.chmod(0o600)
    service = serve(GET=page("here"))
    control = free_port()
    server = twistd("rtunnel-server", f"--control-listen={LOOPBACK}:{control}", f"--clients={clients}")
    server.wait_for("control port listening")
    ends = [
        twistd(
            *("rtunnel-client", f"--server={LOOPBACK}:{control}", f"--tunnel={free_port()}:{service.address}"),
            f"--token={token * 8}",
        )
        for token in "aab"
    ]
    for end in ends:
        end.wait_for("is published")
    assert say(twistd, "disconnect", "a") == (0, "disconnected: 2 connections of a\n")
    for end in ends[:2]:
        end.wait_for("lost: disconnected: ")
        end.wait_for("is published", after=end.wait_for("lost: disconnected: ").end())
    assert "lost" not in ends[2].output


def test_disconnect_in_the_webrtc_tunnel(twistd: Twistds, serve: Serve, start_rtc: StartRtc) -> None:
    options = ["--reconnect-min=0.1", "--reconnect-max=1"]
    tunnel = start_rtc(serve(GET=page("here"), get=get).address, host=options, client=options)
    with Visitor(tunnel.local, b"get 1000000000 1") as visitor:
        assert visitor.recv(1)
        [peer] = look(twistd, "rtc-host")["peers"]
        seen = len(tunnel.client.output)
        assert say(twistd, "disconnect", peer["id"], "rtc-host")[0] == 0
        tunnel.host.wait_for(f"client {re.escape(peer['id'])} lost: disconnected by the operator")
        with pytest.raises(ConnectionResetError):
            read_all(visitor)
    tunnel.wait_for_client(after=seen)
    assert fetch(tunnel.local) == "here"
    seen = len(tunnel.host.output)
    assert say(twistd, "disconnect", ID, "rtc-signal") == (0, f"disconnected: 1 connection of {ID}\n")
    tunnel.host.wait_for("signaling lost: the server says: disconnected by the operator", after=seen)
    tunnel.wait_for_host(after=seen)
    poll(lambda: look(twistd, "rtc-signal")["hosts"] == 1, PATIENCE, "the host is back")
    code, said = say(twistd, "disconnect", "yourhost", "rtc-signal")
    assert code == 1
    assert said.startswith("rtunnel disconnect: nobody is connected as 'yourhost'; ")
