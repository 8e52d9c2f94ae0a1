"""The table of the WebRTC tunnel in ``make bench``: bare channels, the tunnel, and a path between them."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from benchmarks import bare, lossy, parts, stage, udp, ways, webrtc
from benchmarks.lossy import LossyNetwork
from benchmarks.rows import Case
from tests.nat.lab import need_root
from tests.process.harness import need

LOG = """\
{"time": "2026-11-30T23:59:59.750Z", "message": "connected to signaling server ws://127.0.0.1:1"}
{"time": "2026-12-01T00:00:00.250Z", "message": "connected to host 'bench': direct"}
"""


def test_set_up_is_read_from_the_log() -> None:
    assert webrtc.set_up(LOG) == pytest.approx(0.5)


def test_a_stack_that_is_not_installed_is_left_out(tmp_path: Path) -> None:
    stack = bare.Stack("nothing", lambda role: [], tmp_path / "nothing")
    with pytest.raises(parts.Failed, match="nothing is not installed"):
        bare.measure(stack, tmp_path, 1)


@pytest.mark.process
def test_an_end_that_ends_is_no_figure(tmp_path: Path) -> None:
    stack = bare.Stack("broken", lambda role: [sys.executable, "-c", f"raise SystemExit('no {role}')"])
    with pytest.raises(parts.Failed, match=r"(?s)an end of broken has ended: .*no receive"):
        bare.measure(stack, tmp_path, 1)


@pytest.mark.process
@pytest.mark.parametrize("stack", bare.STACKS, ids=lambda stack: stack.title)
def test_a_bare_channel_gives_figures(stack: bare.Stack, tmp_path: Path) -> None:
    if stack is bare.LIBDATACHANNEL:
        need("node")
        if not bare.NODE.exists():
            pytest.skip("node-datachannel is not installed: npm ci --prefix tests/peers/node")
    flow = bare.measure(stack, tmp_path, 0.5, skip=0)
    assert flow.megabits > 0
    assert flow.cpu > 0


@pytest.mark.process
def test_cable_carries_as_much_as_it_is_told(tmp_path: Path) -> None:
    """A burst of datagrams fills its queue; what is in the queue arrives at the rate."""
    need_root()
    with closing(LossyNetwork()) as network, network.at_server(), ExitStack() as stack:
        (port,) = parts.free_ports(1)
        with network.at_client():
            argv = [sys.executable, str(udp.ECHO), "serve", ways.FAR, str(port)]
            stack.enter_context(parts.running(argv, tmp_path / "log"))
        parts.wait_for_echo(port, tmp_path / "log", ways.FAR)
        # Packets of 228 bytes with their headers: 20 in a second, and 5 that wait.
        network.rate, network.queue = 20 * 228, 5 * 228
        trips = udp.echo(1, 200, ways.FAR, port)
        assert 15 < trips.back < 40
        assert trips.p99 > 2000 * lossy.DELAY + 150


@pytest.mark.process
def test_the_tunnel_gives_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    need("iperf3")
    need("nginx")
    monkeypatch.setattr(webrtc, "UDP_RATE", 200)
    monkeypatch.setattr(webrtc, "LOSSES", (1,))
    monkeypatch.setattr(webrtc, "BEGINS", 1.0)
    monkeypatch.setattr(webrtc, "LEAST", 1.0)
    column = ways.Column("webrtc", "webrtc", "the tunnel", webrtc.rtc())
    start = partial(ways.fresh, column, tmp_path)
    with closing(LossyNetwork()) as network, stage.services(tmp_path) as ends, start(ends) as way:
        case = Case(way, partial(start, ends), start)
        for each in (webrtc.echoes(0.5), webrtc.at_rest(), webrtc.goodput(network, 0.5, tmp_path)):
            assert all(figure is not None for figure in each.take(case)), each.rows
