"""``rtunnel status`` with real processes: what a new user sees, and what a script does."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.commands import run_rtunnel
from tests.process.harness import Twistds, poll
from tests.process.rtc import RtcTunnel
from tests.process.services import LOOPBACK, Service, Tunnel, fetch, page

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]
StartRtc = Callable[..., RtcTunnel]

ROOT = Path(__file__).parent.parent.parent


pytestmark = pytest.mark.usefixtures("control_sockets")


def status(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``rtunnel status``."""
    return run_rtunnel("status", *arguments, env={"COLUMNS": "160"})


def look(name: str) -> dict[str, Any]:
    _, out, _ = status(name, "--json")
    [found] = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_both_ends_of_the_reverse_tunnel(serve: Serve, start_tunnel: StartTunnel) -> None:
    service = serve(GET=page("here"))
    tunnel = start_tunnel(service.address)
    assert fetch(tunnel.public) == "here"
    code, out, err = status()
    assert (code, err) == (0, "")
    place = f"port {tunnel.public}"
    for text in (
        "rtunnel-server  pid ",
        "rtunnel-client  pid ",
        "all is well",
        f"control at {LOOPBACK}:{tunnel.control}",
    ):
        assert text in out
    assert f"{place}  {LOOPBACK}:{tunnel.public}  {service.address}  published" in " ".join(out.split("   "))
    server, client = look("rtunnel-server"), look("rtunnel-client")
    assert server["pid"] == tunnel.server.pid
    [of_client] = server["clients"]
    assert of_client["visitors_go"] == "by connections of their own"
    assert [(each["place"], each["published"], each["ready"]) for each in of_client["tunnels"]] == [(place, True, True)]
    [of_tunnel] = client["tunnels"]
    assert (of_tunnel["public"], of_tunnel["service"]) == (f"{LOOPBACK}:{tunnel.public}", service.address)
    assert (of_tunnel["published"], of_tunnel["answers"]) == (True, True)


def test_what_is_wrong_is_said_and_is_the_exit_code(serve: Serve, start_tunnel: StartTunnel) -> None:
    tunnel = start_tunnel(serve(GET=page("here")).address)
    tunnel.server.kill()
    tunnel.client.wait_for("link to .* lost")
    code, out, err = status()
    assert code == 1
    assert f"there is no link to {LOOPBACK}:{tunnel.control}: " in err
    assert "not well" in out
    found = look("rtunnel-client")
    assert not found["ok"]
    assert found["connected_seconds"] is None
    assert any("lost" in each["text"] for each in found["warnings"])
    # A process that was killed has left its socket, and is no process any more.
    assert "rtunnel-server" not in out


class Down(Tunnel):
    """Its service does not listen."""

    def wait_for_client(self, *, after: int = 0) -> None:
        self.client.wait_for("does not answer", after=after)


def test_a_service_that_does_not_answer(twistd: Twistds) -> None:
    port = free_port()
    tunnel = Down(twistd, f"{LOOPBACK}:{port}")
    code, _, err = status()
    assert code == 1
    assert f"the service {LOOPBACK}:{port} of port {tunnel.public} does not answer: connection refused" in err


def test_the_webrtc_tunnel(serve: Serve, start_rtc: StartRtc) -> None:
    service = serve(GET=page("here"))
    tunnel = start_rtc(service.address)
    assert fetch(tunnel.local) == "here"
    code, out, err = status()
    assert (code, err) == (0, "")
    assert "direct, " in out
    # The channel of the page may still be about to close.
    assert re.search(r" ms +[\d.]+ KiB +[\d.]+ KiB +[01] +0 *\n", out), out
    signal_, host, client = look("rtc-signal"), look("rtc-host"), look("rtc-client")
    assert (signal_["hosts"], signal_["clients"]) == (1, 1)
    [peer] = host["peers"]
    assert peer["connected"]
    # The head of an HTTP request and that of the answer pass, and what the tunnel says of them.
    assert min(peer["bytes_sent"], peer["bytes_received"]) > 10
    assert (client["peer"]["bytes_sent"], client["peer"]["bytes_received"]) == (
        peer["bytes_received"],
        peer["bytes_sent"],
    )
    assert host["peer_totals"]["connected"] == client["peer_totals"]["connected"] == {"direct": 1, "relayed": 0}
    assert [(each["service"], each["answers"]) for each in host["services"]] == [(service.address, True)]
    assert client["peer"]["path"].startswith("direct, ")
    assert [each["local"] for each in client["forwards"]] == [f"{LOOPBACK}:{tunnel.local}"]
    tunnel.host.kill()
    poll(lambda: not look("rtc-client")["ok"], PATIENCE, "the host is missed")


def test_nothing_runs(control_sockets: Path) -> None:
    code, out, err = status()
    assert (code, out) == (1, "")
    assert err == (
        "rtunnel status: no rtunnel process with a control socket is running for this user "
        f"(in {control_sockets}); root sees those of all users\n"
    )
    assert status("--json")[1] == "[]\n"


def test_mistakes() -> None:
    assert status("a", "b")[2] == "rtunnel status: name one service, or none to see all; remove 'b'\n"
    assert "did you mean '--watch'" in status("--wach")[2]


def test_without_a_socket_it_serves_all_the_same(
    serve: Serve, start_tunnel: StartTunnel, control_sockets: Path
) -> None:
    control_sockets.chmod(0o777)
    tunnel = start_tunnel(serve(GET=page("here")).address)
    assert fetch(tunnel.public) == "here"
    for process in (tunnel.server, tunnel.client):
        process.wait_for(f"cannot ask this process, as it has no control socket: {control_sockets} is not ours alone")
    assert not list(control_sockets.iterdir())
    code, out, err = status()
    assert (code, out) == (1, "")
    assert "no rtunnel process with a control socket is running for this user" in err
    assert len(err.splitlines()) == 1


def test_two_processes_of_one_service(serve: Serve, start_tunnel: StartTunnel) -> None:
    """Each has a socket of its own, which none takes from another."""
    service = serve(GET=page("here"))
    tunnels = [start_tunnel(service.address) for _ in range(2)]
    code, out, err = status("rtunnel-server")
    assert (code, err) == (0, "")
    for tunnel in tunnels:
        assert f"rtunnel-server  pid {tunnel.server.pid}, " in out
        assert look(str(tunnel.server.pid))["listening"]["control"] == f"{LOOPBACK}:{tunnel.control}"
    gone, stays = tunnels
    assert gone.server.terminate() == 0
    assert look("rtunnel-server")["pid"] == stays.server.pid
    gone.start_server()
    pids = {gone.server.pid, stays.server.pid}

    def both() -> bool:
        return {each["pid"] for each in json.loads(status("rtunnel-server", "--json")[1])} == pids

    poll(both, PATIENCE, "both sockets")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_somebody_elses_process(serve: Serve, start_tunnel: StartTunnel, control_sockets: Path) -> None:
    start_tunnel(serve(GET=page("here")).address)
    control_sockets.chmod(0o755)
    for path in (control_sockets, *control_sockets.parents):
        path.chmod(path.stat().st_mode | 0o111)
    nobody = pwd.getpwnam("nobody").pw_uid
    program = """if True:
        import os, pathlib, sys
        from rtunnel.control.ask import NoAnswer, ask
        os.setuid(int(sys.argv[2]))
        try:
            ask(pathlib.Path(sys.argv[1]))
        except NoAnswer as error:
            print(error)
    """
    for path in control_sockets.iterdir():
        done = subprocess.run(
            [sys.executable, "-c", program, str(path), str(nobody)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        why = f"{path} may not be asked by this user; try sudo, or the user that the service has\n"
        assert done.stdout == why, done.stderr


def test_watch(serve: Serve, start_tunnel: StartTunnel, twistd: Twistds) -> None:
    start_tunnel(serve(GET=page("here")).address)
    watching = twistd.rtunnel("status", "rtunnel-client", "--watch", "--json")
    watching.wait_for('"ok": true')
    seen = len(watching.output)
    watching.wait_for('"ok": true', after=seen)
    assert watching.terminate(number=signal.SIGINT) == 130
