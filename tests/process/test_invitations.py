"""Invitations by real processes, as two people type them: signal, host, connect CODE."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.needs import LIBOQS, NO_LIBOQS
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistds, twistd_program
from tests.process.rtc import check_log
from tests.process.services import LOOPBACK, Service, fetch, page
from tests.process.verbs import say

Serve = Callable[..., Service]
FULL = Path("/dev/full")


@pytest.fixture(autouse=True)
def directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the control sockets of this test are."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path_factory.mktemp("s")))


class Two:
    """Two people and a signaling server. Each has a machine, which is a directory here."""

    def __init__(self, twistd: Twistds, place: Path, service: str) -> None:
        self.twistd = twistd
        self.place = place
        self.service = service
        self.port, self.local = free_port(), free_port()
        self.signal = self.start("signal", "--addr", f"{LOOPBACK}:{self.port}")
        self.signal.wait_for("signaling port listening on ")

    def start(self, *arguments: str) -> Process:
        return self.twistd.rtunnel(*arguments)

    def _end(self, name: str) -> list[str]:
        return [
            f"--signal=ws://{LOOPBACK}:{self.port}",
            "--stun-server=",
            f"--ice-interface={LOOPBACK}",
            f"--state-dir={self.place / name}",
            "--drain=0",
        ]

    def host(self, *more: str) -> Process:
        host = self.start("host", *self._end("host"), f"--service=web={self.service}", *more)
        host.wait_for("host '.*' offers ")
        return host

    def connect(self, name: str, *words: str) -> Process:
        return self.start("connect", *words, f"--local={LOOPBACK}:{self.local}", *self._end(name))

    @property
    def page(self) -> str:
        return fetch(self.local)


@pytest.fixture
def two(twistd: Twistds, serve: Serve, tmp_path: Path) -> Two:
    tmp_path.chmod(0o700)
    return Two(twistd, tmp_path, serve(GET=page("here")).address)


def wrong(code: str) -> str:
    """Another code with the same number."""
    rest, _, last = code.rpartition("-")
    return f"{rest}-{'zulu' if last != 'zulu' else 'orca'}"


def test_from_nothing_to_a_page(two: Two) -> None:
    host = two.host("--invite")
    typed = host.wait_for(r"one try; the other person\s+types:\s+rtunnel connect (\S+) --local (\S+) --signal (\S+)$")
    code = typed[1]
    assert (typed[2], typed[3]) == ("127.0.0.1:8080", f"ws://{LOOPBACK}:{two.port}")
    client = two.connect("anna", *code.upper().split("-"))
    # The only service that there is needs no name.
    client.wait_for("connected to host 'host-")
    assert two.page == "here"
    [host_id] = set(re.findall(r"host '(host-[a-z0-9]+-[a-z0-9]+)' knows the code", client.output))
    assert client.terminate() == 0
    again = two.connect("anna", f"--id={host_id}")
    again.wait_for(rf"connected to host '{host_id}'")
    assert two.page == "here"
    # A restart of the host is nothing to either.
    assert host.terminate() == 0
    seen = len(again.output)
    other = two.host(f"--id={host_id}")
    again.wait_for(rf"connected to host '{host_id}'", after=seen)
    assert two.page == "here"
    for process in (again, other, two.signal):
        assert process.terminate() == 0
        check_log(process)


def test_a_running_host_is_asked(two: Two, twistd: Twistds) -> None:
    host = two.host("--id=cottage")
    code, said = say(twistd, "host", "invite", "--service", "wep")
    assert (code, said) == (1, "rtunnel host invite: this host does not offer the service 'wep'; did you mean 'web'?\n")
    inviting = two.start("host", "invite", "--service", "web", "--for", "Anna")
    secret = inviting.wait_for(r"^The code is (\S+), for service web of host 'cottage'\.$")[1]
    assert "This host was open to everybody. From now on only those may connect whom it knows.\n" in inviting.output
    inviting.wait_for(rf"^    rtunnel connect {secret} --local 127\.0\.0\.1:8080 --signal ws://{LOOPBACK}:{two.port}$")
    inviting.wait_for(r"^Waiting for the other person\.$")
    client = two.connect("anna", secret)
    client.wait_for("connected to host 'cottage'")
    assert two.page == "here"
    assert inviting.wait() == 0
    assert inviting.output.endswith("\nThe code was right: Anna is connected, and needs no code any more.\n")
    # A reload does not forget where the code has led.
    assert say(twistd, "reload", "rtc-client")[0] == 0
    assert two.page == "here"
    assert client.terminate() == 0
    assert host.terminate() == 0
    check_log(host)


def test_a_wrong_code_ends_both(two: Two) -> None:
    host = two.host("--id=cottage")
    inviting = two.start("host", "invite")
    secret = inviting.wait_for(r"^The code is (\S+), for all services")[1]
    client = two.connect("anna", wrong(secret))
    assert client.wait() == 1
    assert client.output.splitlines()[-1].startswith("rtunnel connect: invitation 1 is spent: ")
    assert client.output.endswith("the code of the invitation is wrong; ask for a new code\n")
    assert inviting.wait() == 1
    assert inviting.output.splitlines()[-1] == (
        "rtunnel host invite: the code was wrong, or whoever tried it did not come; nobody was let in. Make a new one"
    )
    host.wait_for("the code of the invitation is wrong")
    late = two.connect("anna", secret)
    assert late.wait() == 1
    assert late.output.splitlines()[-1].startswith("rtunnel connect: there is no invitation 1: it was used, withdrawn")
    for process in (host, client, late):
        check_log(process)


def test_ctrl_c_withdraws(two: Two) -> None:
    host = two.host("--id=cottage")
    inviting = two.start("host", "invite")
    secret = inviting.wait_for(r"^The code is (\S+), for all services")[1]
    inviting.wait_for(r"^Waiting for the other person\.$")
    assert inviting.terminate(number=signal.SIGINT) == 1
    assert inviting.output.endswith(
        "\nrtunnel host invite: the invitation is withdrawn; the code is good for nothing any more\n"
    )
    host.wait_for("invitation 1 is withdrawn")
    client = two.connect("anna", secret)
    assert client.wait() == 1
    assert "there is no invitation 1: it was used, withdrawn" in client.output


@pytest.mark.skipif(not FULL.exists(), reason=f"there is no {FULL}")
def test_a_code_that_cannot_be_shown_is_withdrawn(two: Two) -> None:
    host = two.host("--id=cottage")
    with FULL.open("w") as full:
        argv = [twistd_program("rtunnel"), "host", "invite"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (1, "rtunnel host invite: cannot write: No space left on device\n")
    host.wait_for("invitation 1 is withdrawn")


@pytest.mark.liboqs
@pytest.mark.skipif(not LIBOQS, reason=NO_LIBOQS)
def test_hedges_too(two: Two) -> None:
    hedge = "--hedge=FrodoKEM-1344-AES"
    host = two.host("--invite", hedge)
    code = host.wait_for(r"types:\s+rtunnel connect (\S+) ")[1]
    client = two.connect("anna", code, hedge)
    client.wait_for(r"connected to host 'host-.*sealed X25519MLKEM768 \+ FrodoKEM-1344-AES, ")
    assert two.page == "here"
