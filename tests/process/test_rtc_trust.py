"""Who may connect, and to what: lists of fingerprints, pins and certificates between real processes."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.process.harness import Process, Twistds, poll
from tests.process.rtc import ID, check_log
from tests.process.services import LOOPBACK, Hold, Service, Visitor, fetch, get, page, read_all
from tests.process.verbs import look, say

Serve = Callable[..., Service]

KB = 1000
REFUSED = f"host '{ID}' cannot be reached: the host refuses this client: "
CHANGED = "THE HOST HAS ANOTHER IDENTITY THAN THE ONE THAT IS KNOWN HERE"


@pytest.fixture(autouse=True)
def directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the control sockets of this test are."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path_factory.mktemp("s")))


def write(path: Path, text: str) -> None:
    """Write a file in one step, as editors do."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)


class Machines:
    """A signaling server, a host, and clients, each with a state directory of its own.

    :ivar ports: the local ports of clients, for the services ``web`` and ``held``.
    """

    def __init__(self, twistd: Twistds, serve: Serve, place: Path) -> None:
        self.twistd = twistd
        self.place = place
        self.hold = Hold()
        self.service = serve(GET=page("here"), hold=self.hold, get=get)
        self.port = free_port()
        self.ports = free_port(), free_port()
        self.clients_file = place / "clients"
        self._started: list[Process] = []
        self.signal = self._start("rtc-signal", f"--addr={LOOPBACK}:{self.port}")
        self.signal.wait_for("signaling port listening on ")

    def _start(self, *arguments: str) -> Process:
        self._started.append(self.twistd(*arguments))
        return self._started[-1]

    def common(self, name: str) -> list[str]:
        return [
            f"--id={ID}",
            f"--signal=ws://{LOOPBACK}:{self.port}",
            "--stun-server=",
            f"--ice-interface={LOOPBACK}",
            f"--state-dir={self.place / name}",
            "--drain=0",
            "--reconnect-min=0.1",
            "--reconnect-max=0.5",
        ]

    def host(self, *options: str, name: str = "host") -> Process:
        services = (f"--service={each}={self.service.address}" for each in ("web", "held"))
        host = self._start("rtc-host", *self.common(name), *services, *options)
        host.wait_for(f"host '{ID}' offers ")
        return host

    def client(self, name: str, *options: str) -> Process:
        forwards = (
            f"--forward={LOOPBACK}:{port}={each}" for port, each in zip(self.ports, ("web", "held"), strict=True)
        )
        return self._start("rtc-client", *self.common(name), *forwards, *options)

    def fingerprint(self, end: str, name: str) -> str:
        """What ``rtunnel id`` prints on that machine."""
        code, said = say(self.twistd, "id", end, "--state-dir", str(self.place / name))
        assert code == 0
        found = re.match(rf"{end}: +((?:[0-9a-z]{{5}}-){{5}}[0-9a-z]{{5}})\b", said)
        assert found is not None, said
        return found[1]

    def authorize(self, **clients: str) -> None:
        """Write the host's file: for each client the name of its machine and the keys of its entry."""
        lines = [
            f"{name}: {{fingerprint: {self.fingerprint('client', name)}{more}}}\n" for name, more in clients.items()
        ]
        write(self.clients_file, "".join(lines))

    def held(self) -> Visitor:
        """A visitor of the service ``held``, who is there when this returns."""
        busy = self.service.busy
        visitor = Visitor(self.ports[1], b"hold")
        poll(lambda: self.service.busy > busy, 60, "a visitor at the service")
        return visitor

    def end(self) -> None:
        self.hold.read_now.set()
        for process in reversed(self._started):
            if process.running:
                assert process.terminate() == 0, process
        for process in self._started:
            check_log(process)


@pytest.fixture
def machines(twistd: Twistds, serve: Serve, tmp_path: Path) -> Any:
    tmp_path.chmod(0o700)
    made = Machines(twistd, serve, tmp_path)
    yield made
    made.end()


def connected(client: Process, after: int = 0) -> None:
    client.wait_for(f"connected to host '{ID}': .*; sealed X25519MLKEM768, ML-DSA-65, ", after=after)


def is_over(visitor: Visitor) -> bool:
    """Wait until a visitor's connection ends, without having carried anything."""
    try:
        return visitor.recv(1) == b""
    except ConnectionError:
        return True


def is_refused(port: int, line: bytes) -> bool:
    """Whether a visitor's connection ends, which may be before it has sent anything."""
    try:
        with Visitor(port, line) as visitor:
            return is_over(visitor)
    except ConnectionError:
        return True


def test_what_a_listed_client_may(machines: Machines) -> None:
    machines.authorize(bob="")
    host = machines.host(f"--authorized-clients={machines.clients_file}")
    anna = machines.client("anna")
    short = machines.fingerprint("client", "anna")
    anna.wait_for(re.escape(f"{REFUSED}the host does not know this client: its fingerprint, {short}, is not in "))
    host.wait_for(rf"client \S+ lost: it is refused: the host does not know this client: its fingerprint, {short}")
    # It is let in as soon as it is listed, with one service and not the other, and so many connections.
    machines.authorize(bob="", anna=", services: [held], streams: 2")
    connected(anna)
    host.wait_for(r"client \S+ connected: .*; sealed X25519MLKEM768, ML-DSA-65, anna$")
    with machines.held(), machines.held():
        assert is_refused(machines.ports[0], b"GET / HTTP/1.1\r\n")
        host.wait_for(r"client \S+ is refused a connection: this client may not use the service web$")
        anna.wait_for(f"host '{ID}' refuses a connection: this client may not use the service web$")
        assert is_refused(machines.ports[1], b"hold")
        host.wait_for("is refused a connection: this client may have 2 connections at once$")
        assert machines.service.busy == 2
        # Who uses what.
        [peer] = look(machines.twistd, "rtc-host")["peers"]
        assert peer["client"] == "anna"
        assert peer["sealed"]["name"] == "anna"
        assert peer["may"] == {"services": ["held"], "streams": 2, "bytes_per_second": None, "until": None}
        assert [(use["service"], use["streams"]) for use in peer["uses"]] == [("held", 2)]
        shown = look(machines.twistd, "rtc-host")["identity"]
        fingerprint = machines.fingerprint("host", "host")
        assert shown == {"fingerprint": fingerprint, "signature": "ML-DSA-65", "closed": True}
    check_log(host)


def test_rights_that_end_while_they_are_used(machines: Machines) -> None:
    machines.authorize(anna="")
    host = machines.host(f"--authorized-clients={machines.clients_file}")
    anna = machines.client("anna")
    connected(anna)
    with machines.held() as visitor:
        machines.authorize(anna=", services: [web]")
        assert is_over(visitor)
    # The rest stays.
    assert fetch(machines.ports[0]) == "here"
    machines.authorize(anna="")
    poll(lambda: look(machines.twistd, "rtc-host")["peers"][0]["may"]["services"] is None, 60, "all services")
    with machines.held() as visitor:
        soon = datetime.now(UTC) + timedelta(seconds=2)
        machines.authorize(anna=f", until: '{soon.isoformat(timespec='seconds')}'")
        assert is_over(visitor)
        anna.wait_for(f"host '{ID}' lost: the host refuses this client: the rights of the client 'anna' ended at ")
    seen = len(anna.output)
    machines.authorize(anna="")
    connected(anna, after=seen)
    with machines.held() as visitor:
        machines.authorize()
        assert is_over(visitor)
    anna.wait_for("lost: the host refuses this client: the host does not know this client: ", after=seen)
    # A file with a mistake, or none, opens nothing.
    write(machines.clients_file, "anna: {fingerprint: oops}\n")
    host.wait_for("'oops' is not a fingerprint.*; what was read before counts until that is mended")
    machines.clients_file.unlink()
    host.wait_for(r"clients: cannot be read.*; what was read before counts until that is mended")
    seen, busy = len(anna.output), machines.service.busy
    with Visitor(machines.ports[1], b"hold"):
        # Somebody who waits makes it ask again.
        host.wait_for("lost: it is refused: ", after=len(host.output))
    assert "connected to host" not in anna.output[seen:]
    assert machines.service.busy == busy


def test_bandwidth(machines: Machines) -> None:
    machines.authorize(anna=", bandwidth: 800kbit")
    machines.host(f"--authorized-clients={machines.clients_file}")
    connected(machines.client("anna"))
    began = time.monotonic()
    visitors = [Visitor(port, b"get 150000 7") for port in machines.ports]
    for visitor in visitors:
        with visitor:
            assert read_all(visitor)[0] == 150_000
    # 300 KB, at 100 KB a second for both together; what may come at once is less than a third of that.
    assert time.monotonic() - began >= 2.0


def test_two_processes_of_one_client_share_what_it_may(machines: Machines) -> None:
    machines.authorize(anna=", streams: 2")
    host = machines.host(f"--authorized-clients={machines.clients_file}")
    connected(machines.client("anna"))
    with machines.held(), machines.held():
        machines.ports = free_port(), free_port()
        connected(machines.client("anna"))
        assert is_refused(machines.ports[1], b"hold")
        host.wait_for("is refused a connection: this client may have 2 connections at once$")
    assert [peer["client"] for peer in look_at_host(machines)] == ["anna", "anna"]


def look_at_host(machines: Machines) -> list[dict[str, Any]]:
    peers: list[dict[str, Any]] = look(machines.twistd, "rtc-host")["peers"]
    return peers


def test_the_right_host_key_and_a_wrong_one(machines: Machines) -> None:
    host = machines.host()
    short = machines.fingerprint("host", "host")
    wrong = machines.client("anna", f"--host-key={machines.fingerprint('client', 'bob')}")
    wrong.wait_for(rf"host '{ID}' cannot be reached: it is refused: {CHANGED}.*Its fingerprint is now {short}; ")
    host.wait_for(rf"client \S+ lost: the client refuses this host: {CHANGED}")
    with Visitor(machines.ports[0], b"GET / HTTP/1.1\r\n"):
        # Somebody who waits makes it ask again.
        host.wait_for(CHANGED, after=len(host.output))
    assert wrong.terminate() == 0
    assert "connected to host" not in wrong.output
    connected(machines.client("anna", f"--host-key={machines.fingerprint('client', 'bob')},{short}"))
    assert fetch(machines.ports[0]) == "here"


def test_a_host_that_is_trusted_at_first_use_and_then_another(machines: Machines) -> None:
    host = machines.host()
    short = machines.fingerprint("host", "host")
    host.wait_for("this host is open: it serves everybody")
    anna = machines.client("anna", "--trust-on-first-use")
    anna.wait_for(f"the host '{ID}' is trusted at first use: its fingerprint, {short}, is now in ")
    connected(anna)
    known = machines.place / "anna" / "known_hosts"
    assert f"{ID}: {short}" in known.read_text().replace('"', "")
    assert fetch(machines.ports[0]) == "here"
    assert host.terminate() == 0
    other = machines.host(name="other")
    anna.wait_for(rf"host '{ID}' cannot be reached: it is refused: {CHANGED}.*, change it in {re.escape(str(known))}")
    other.wait_for(rf"client \S+ lost: the client refuses this host: {CHANGED}")
    assert short in known.read_text()
    # Without the option the file still counts, as it has this host.
    assert anna.terminate() == 0
    anna = machines.client("anna")
    anna.wait_for(rf"host '{ID}' cannot be reached: it is refused: {CHANGED}")
    seen = len(anna.output)
    write(known, f"{ID}: {machines.fingerprint('host', 'other')}\n")
    connected(anna, after=seen)
    assert fetch(machines.ports[0]) == "here"


def test_a_host_that_is_not_known(machines: Machines) -> None:
    machines.host()
    short = machines.fingerprint("host", "host")
    known = machines.place / "hosts"
    write(known, "elsewhere: " + machines.fingerprint("client", "bob") + "\n")
    anna = machines.client("anna", f"--known-hosts={known}")
    anna.wait_for(rf"it is refused: the host is not known here\. Its fingerprint is {short}; compare it ")
    write(known, f"{ID}: {short}\n")
    connected(anna)


def test_certificates_of_an_organisation(machines: Machines) -> None:
    twistd, org = machines.twistd, machines.place / "org"
    assert say(twistd, "pki", "init", "--dir", str(org), "--name", "unused.example.org")[0] == 0
    assert say(twistd, "pki", "host", "--dir", str(org), ID)[0] == 0
    for name in ("laptop", "phone"):
        assert say(twistd, "pki", "client", "--dir", str(org), name)[0] == 0

    def options(name: str) -> list[str]:
        files = org / ("hosts" if name == ID else "clients") / name
        return [f"--identity-cert={files}.crt", f"--identity-key={files}.key", f"--peer-ca={org / 'ca.crt'}"]

    write(machines.clients_file, "laptop: {services: [held]}\n")
    host = machines.host(*options(ID), f"--authorized-clients={machines.clients_file}")
    phone = machines.client("phone", *options("phone"))
    phone.wait_for(re.escape(f"{REFUSED}the host does not know this client: 'phone', the name in its certificate, is "))
    assert phone.terminate() == 0
    stranger = machines.client("stranger")
    stranger.wait_for(f"{REFUSED}the client's certificate is refused: ")
    assert stranger.terminate() == 0
    # The host's certificate is for its ID.
    other = machines.client("laptop", *options("laptop"), "--host-name=elsewhere")
    other.wait_for(f"it is refused: the host's certificate is refused: it is not for 'elsewhere', but for '{ID}'")
    assert other.terminate() == 0
    laptop = machines.client("laptop", *options("laptop"))
    connected(laptop)
    with machines.held() as visitor:
        [peer] = look_at_host(machines)
        assert (peer["client"], peer["may"]["services"]) == ("laptop", ["held"])
        assert say(twistd, "pki", "revoke", "--dir", str(org), "laptop")[0] == 0
        assert is_over(visitor)
    host.wait_for(r"client \S+ lost: it is refused: the client's certificate is revoked")
    laptop.wait_for("the host refuses this client: the client's certificate is revoked")


def test_certificates_that_are_renewed_where_they_are(machines: Machines) -> None:
    """Both ends read the new ones by themselves. Who is connected stays, until what it has shown is revoked."""
    twistd, org = machines.twistd, machines.place / "org"
    assert say(twistd, "pki", "init", "--dir", str(org), "--name", "unused.example.org")[0] == 0
    assert say(twistd, "pki", "host", "--dir", str(org), ID)[0] == 0
    assert say(twistd, "pki", "client", "--dir", str(org), "laptop")[0] == 0

    def options(files: Path) -> list[str]:
        return [f"--identity-cert={files}.crt", f"--identity-key={files}.key", f"--peer-ca={org / 'ca.crt'}"]

    host = machines.host(*options(org / "hosts" / ID))
    laptop = machines.client("laptop", *options(org / "clients" / "laptop"))
    connected(laptop)
    for name, process in ((ID, host), ("laptop", laptop)):
        assert say(twistd, "pki", "renew", "--dir", str(org), name)[0] == 0
        process.wait_for("the files of this end's certificate have changed; new connections use them")
    with machines.held() as visitor:
        seen = len(laptop.output)
        for name in (ID, "laptop"):
            assert say(twistd, "pki", "revoke", "--dir", str(org), "--replaced", name)[0] == 0
        assert is_over(visitor)
        connected(laptop, after=seen)


def test_settings_that_change_keep_whoever_may_stay(machines: Machines) -> None:
    """SIGHUP: other lists and pins count for those who are connected, who notice nothing if they are on them."""
    machines.authorize(anna="")
    other_file = machines.place / "others"
    host_config, client_config = machines.place / "host.yaml", machines.place / "client.yaml"
    write(host_config, f"host: {{authorized_clients: {machines.clients_file}}}\n")
    right, wrong = machines.fingerprint("host", "host"), machines.fingerprint("client", "bob")
    write(client_config, f"client: {{host_key: {right}}}\n")
    host = machines.host(f"--config={host_config}")
    anna = machines.client("anna", f"--config={client_config}")
    connected(anna)

    def reload(process: Process) -> None:
        seen = len(process.output)
        process.send_signal(signal.SIGHUP)
        process.wait_for("reloaded: ", after=seen)

    with machines.held() as visitor:
        write(other_file, machines.clients_file.read_text().replace("anna:", "laptop:"))
        write(host_config, f"host: {{authorized_clients: {other_file}}}\n")
        reload(host)
        write(client_config, f"client: {{host_key: [{wrong}, {right}]}}\n")
        reload(anna)
        poll(lambda: [peer["client"] for peer in look_at_host(machines)] == ["laptop"], 60, "the new name")
        # The file of before does not count any more.
        machines.clients_file.unlink()
        visitor.sendall(b"all is well")
        visitor.shutdown(socket.SHUT_WR)
        machines.hold.read_now.set()
        assert is_over(visitor)
        assert [count for count, _ in machines.hold.read] == [len(b"all is well")]
    assert anna.output.count("connected to host") == 1
    for process in (host, anna):
        assert " is open: " not in process.output
    # Without a list it is open again, and says so.
    write(host_config, "host: {}\n")
    reload(host)
    host.wait_for("this host is open: it serves everybody whom the signaling server lets in; list its clients")
    write(client_config, f"client: {{host_key: {wrong}}}\n")
    reload(anna)
    anna.wait_for(f"host '{ID}' lost: it is refused: {CHANGED}")
    host.wait_for(rf"client \S+ lost: the client refuses this host: {CHANGED}")


def test_the_fingerprints_of_a_machine(machines: Machines) -> None:
    path = machines.place / "anna"
    code, said = say(machines.twistd, "id", "--state-dir", str(path))
    assert code == 0
    lines = said.splitlines()
    assert [line.split()[0] for line in lines] == ["host:", "client:"]
    assert all(f"new; its key is in {path / 'identities'}" in line for line in lines)
    for end, line in zip(("host", "client"), lines, strict=True):
        assert machines.fingerprint(end, "anna") == line.split()[1]
        assert (path / "identities" / f"{end}.pem").stat().st_mode & 0o777 == 0o600
    assert (path / "identities").stat().st_mode & 0o777 == 0o700
