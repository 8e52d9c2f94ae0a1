"""``rtunnel doctor`` in networks of its own: kinds of NATs, and ports whose packets are lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nat.lab import SECOND_SERVER, SERVER, STUN_PORT, Lab, long_term
from tests.ports import free_port
from tests.process.doctor import Report
from tests.process.harness import Twistds, need, wait_until_open


@pytest.fixture(autouse=True)
def directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the control sockets of this test are."""
    path = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(path))
    return path


@pytest.fixture
def url(lab: Lab, twistd: Twistds) -> str:
    """The URL of a signaling server."""
    with lab.servers.inside():
        port = free_port(SERVER)
        twistd("rtc-signal", f"--addr={SERVER}:{port}")
        wait_until_open(port, host=SERVER)
    return f"ws://{SERVER}:{port}"


def doctor(lab: Lab, *arguments: str) -> Report:
    with lab.lan1.inside():
        return Report(*arguments)


def test_a_home_router(lab: Lab, twistd: Twistds, url: str) -> None:
    lab.start_turn(twistd)
    report = doctor(lab, f"--signal={url}", f"--stun-server=stun:{SERVER}:{STUN_PORT}")
    assert report.code == 0, report.found
    text = report.text("STUN")
    assert text.startswith("a NAT: 10.")
    assert f"is {lab.nat1.address}:" in text
    assert "and the same to others, so direct paths are possible; answers may come from its port" in text


def test_a_symmetric_nat(lab: Lab, twistd: Twistds, url: str) -> None:
    lab.start_turn(twistd, *long_term("user", "password"))
    lab.nat1.behave("symmetric")
    stun = f"--stun-server=stun:{SERVER}:{STUN_PORT}"
    report = doctor(lab, f"--signal={url}", stun)
    assert (report.code, report.status("STUN")) == (0, "warn")
    assert "and another to others (a symmetric NAT)" in report.text("STUN")
    assert "Add a TURN server" in report.advice
    turn = (f"--turn-server=turn:{SECOND_SERVER}:{STUN_PORT}", "--turn-user=user", "--turn-credential=password")
    report = doctor(lab, f"--signal={url}", stun, *turn)
    assert (report.status("STUN"), report.status("TURN")) == ("ok", "ok")
    assert report.advice == ""


def test_packets_that_are_lost(lab: Lab, url: str) -> None:
    for protocol, port in (("tcp", 7000), ("udp", STUN_PORT)):
        lab.wan.run(need("iptables"), "-A", "FORWARD", "-p", protocol, "--dport", str(port), "-j", "DROP")
    report = doctor(lab, f"--server={SERVER}:7000")
    assert report.failed() == ["port"]
    assert f"{SERVER}:7000 does not answer within 4 s" in report.text("port")
    assert "Open TCP port 7000" in report.advice
    report = doctor(lab, f"--signal={url}", f"--stun-server=stun:{SERVER}:{STUN_PORT}")
    assert report.failed() == ["STUN"]
    assert "turn:HOST:443?transport=tcp" in report.advice


def test_a_network_without_a_way_to_the_address(lab: Lab) -> None:
    report = doctor(lab, "--server=[2001:db8::1]:7000")
    assert report.failed() == ["route"]
    assert "to 2001:db8::1 no way: network is unreachable" in report.text("route")
    assert "ip route get" in report.advice


def test_udp_that_is_lost(lab: Lab, twistd: Twistds) -> None:
    with lab.servers.inside():
        port = free_port(SERVER)
        twistd("rtunnel-server", f"--control-listen=tcp:{port}:interface={SERVER}")
        wait_until_open(port, host=SERVER)
    server = f"--server={SERVER}:{port}"
    assert doctor(lab, server).text("UDP").startswith("UDP gets through to ")
    lab.wan.run(need("iptables"), "-A", "FORWARD", "-p", "udp", "-j", "DROP")
    report = doctor(lab, server, "--publish=udp:5353=127.0.0.1:53")
    assert (report.code, report.status("UDP")) == (0, "warn")
    assert report.text("UDP").startswith(f"UDP does not get through to {SERVER} port {port}")
    assert f"Open UDP port {port}" in report.advice
