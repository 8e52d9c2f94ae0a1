"""The rows of UDP in ``make bench``: finding the rate that is carried, the echo, and the network that loses packets."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest

from benchmarks import lossy, parts, stage, udp, udp_echo, ways
from benchmarks.lossy import LossyNetwork
from benchmarks.rows import Case
from benchmarks.udp import Datagrams, Trips
from benchmarks.ways import OURS, Way
from tests.nat.lab import need_root
from tests.patience import PATIENCE
from tests.process.harness import need

#: What the echo does with a datagram and its source.
Answer = Callable[[socket.socket, bytes, tuple[str, int]], object]


@contextmanager
def service(answer: Answer) -> Iterator[int]:
    """Run a UDP service in a thread. Yield its port."""
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind((parts.HOST, 0))

        def serve() -> None:
            while True:
                data, source = server.recvfrom(65536)
                if not data:
                    return
                answer(server, data, source)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            with socket.socket(type=socket.SOCK_DGRAM) as client:
                client.sendto(b"", server.getsockname())
            thread.join()


def test_packets_at_a_rate_are_told_apart_when_they_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service answers once it has all, the last one first and twice."""
    monkeypatch.setattr(udp_echo, "LATE", PATIENCE)
    held: list[bytes] = []

    def answer(server: socket.socket, data: bytes, source: tuple[str, int]) -> None:
        held.append(data)
        if len(held) == 10:
            for packet in [held[-1], *reversed(held)]:
                server.sendto(packet, source)

    with service(answer) as port:
        sent, back = udp_echo.trips(parts.HOST, port, 0.1, 100)
    assert sent == len(back) == 10
    # The first one to be sent waited for all others to be.
    assert min(back) < 0.09 <= max(back)


def test_packets_one_at_a_time_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_echo, "LATE", PATIENCE)
    monkeypatch.setattr(udp_echo, "PATIENCE", PATIENCE)
    with service(lambda server, data, source: server.sendto(data, source)) as port:
        sent, back = udp_echo.trips(parts.HOST, port, 0.1, 0)
    assert sent == len(back) > 0
    # Had they overlapped, their times would add up to more than all of it took.
    assert sum(back) <= 0.1 + max(back)


def test_packets_that_do_not_come_back_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_echo, "LATE", 0.0)
    with service(lambda server, data, source: None) as port:
        assert udp_echo.trips(parts.HOST, port, 0.1, 100) == (10, [])


def test_report_of_the_echo_is_read() -> None:
    trips = [0.001 * number for number in range(1, 101)]
    read = udp.parse_trips(udp_echo.report(200, trips))
    assert (read.sent, read.back) == (200, 100)
    assert (read.p50, read.p99) == pytest.approx((51.0, 100.0))
    with pytest.raises(parts.Failed, match="none of 7 packets came back"):
        udp.parse_trips(udp_echo.report(7, []))
    for nonsense in ("Traceback: refused", json.dumps({"sent": 1}), "[1]"):
        with pytest.raises(parts.Failed, match="the echo said: "):
            udp.parse_trips(nonsense)


def carrier(most: int, offers: int = 1_000_000) -> tuple[Callable[[int], Datagrams], list[int]]:
    """Return a way that carries *most* a second when *offers* are sent at best, and the rates that it was asked for."""
    asked: list[int] = []

    def send(rate: int) -> Datagrams:
        asked.append(rate)
        sent = min(rate, offers) * 2
        return Datagrams(sent, min(sent, most * 2), 2)

    return send, asked


def test_highest_rate_that_is_carried_is_found() -> None:
    for rate in (udp.LADDER[0], udp.LADDER[17], udp.LADDER[-1]):
        send, asked = carrier(rate)
        assert udp.highest(send) == rate
        assert len(asked) <= 6 * udp.TRIES
    # Less than a hundredth may be lost.
    assert udp.highest(carrier(round(udp.LADDER[17] * 0.995))[0]) == round(udp.LADDER[17] * 0.995)
    assert udp.highest(carrier(round(udp.LADDER[17] * 0.985))[0]) == udp.LADDER[16]
    # What was not offered was not carried.
    assert udp.highest(carrier(1_000_000, offers=round(udp.LADDER[17] * 0.94))[0]) == udp.LADDER[16]
    assert udp.highest(carrier(0)[0]) == 0.0


def test_rate_that_is_not_carried_is_offered_again() -> None:
    send, asked = carrier(udp.LADDER[40])

    def seldom(rate: int) -> Datagrams:
        result = send(rate)
        return result if asked.count(rate) == 2 else Datagrams(result.sent, 0, 2)

    assert udp.highest(seldom) == udp.LADDER[40]


def test_load_program_that_fails_was_asked_for_too_much_unless_it_always_fails() -> None:
    send, _ = carrier(1_000_000)

    def fails(most: int, rate: int) -> Datagrams:
        if rate > most:
            raise parts.Failed("iperf3 said: no")
        return send(rate)

    assert udp.highest(partial(fails, udp.LADDER[5])) == udp.LADDER[5]
    with pytest.raises(parts.Failed, match="iperf3 said: no"):
        udp.highest(partial(fails, 0))


def test_way_without_udp_leaves_its_rows_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(Way(1, 2), lambda: pytest.fail("not needed"), lambda services: pytest.fail("not needed"))
    monkeypatch.setattr(udp, "load", lambda *_: pytest.fail("not needed"))
    network = LossyNetwork.__new__(LossyNetwork)
    for each in (*udp.measurements(1), udp.across(network, 1, tmp_path)):
        assert each.take(case) == (None,) * len(each.rows)


def test_figures_of_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    """iperf3 reports bytes; a stream lasts longer than the round trips beside it."""
    asked = []

    def throughput(seconds: float, *options: str) -> Callable[[int], parts.Transfer]:
        asked.append((seconds, options))
        return lambda port: parts.Transfer(0.1, 900 * 200, 1000 * 200)

    monkeypatch.setattr(udp, "throughput", throughput)
    monkeypatch.setattr(udp, "LEAD", 0.01)
    trips = iter((Trips(9, 9, 1.0, 2.0), Trips(9, 9, 3.0, 4.0)))
    monkeypatch.setattr(udp, "echo", lambda *_: next(trips))
    case = Case(Way(1, 2, echo=3), nullcontext, nullcontext)  # type: ignore[arg-type]
    lost, cpu = udp.steady(0.4, 200).take(case)
    assert lost == pytest.approx(10.0)
    assert cpu is None
    seconds, options = asked[0]
    assert seconds == 1
    assert options[:5] == ("-u", "-l", "200", "-b", str(udp.RATE * 200 * 8))
    assert udp.round_trips(1.0).take(case) == (1.0, 2.0, 4.0)
    assert asked[1] == (1.02, ("-R",))


@pytest.mark.process
def test_echo_that_does_not_answer_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = parts.free_ports(1)
    (tmp_path / "log").write_text("what it said")
    monkeypatch.setattr(parts, "START", 0.1)
    with pytest.raises(parts.Failed, match=f"nothing comes back from UDP port {port}: what it said"):
        parts.wait_for_echo(port, tmp_path / "log")


def test_free_ports_are_free_for_udp_too() -> None:
    for port in parts.free_ports(20):
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.bind((parts.HOST, port))


def test_network_that_loses_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.lossy.os.geteuid", lambda: 1000)
    monkeypatch.setattr("benchmarks.lossy.find", lambda name: name)
    with pytest.raises(parts.Failed, match="network namespaces need root"):
        LossyNetwork()


@pytest.mark.process
def test_cable_takes_its_time_and_loses_as_many_packets_as_it_is_told(tmp_path: Path) -> None:
    need_root()
    with closing(LossyNetwork()) as network, network.at_server():
        (port,) = parts.free_ports(1)
        with ExitStack() as stack:
            with network.at_client():
                argv = [sys.executable, str(udp.ECHO), "serve", ways.FAR, str(port)]
                stack.enter_context(parts.running(argv, tmp_path / "log"))
            parts.wait_for_echo(port, tmp_path / "log", ways.FAR)
            network.percent = 100
            with pytest.raises(parts.Failed, match="none of 10 packets came back"):
                udp.echo(0.1, 100, ways.FAR, port)
            network.percent = 50
            # A quarter of 1,000 comes back; that it is 100 or 400 does not happen.
            assert 100 < udp.echo(1, 1000, ways.FAR, port).back < 400
            network.percent = 0
            assert udp.echo(0.1, 100, ways.FAR, port).p50 > 2000 * lossy.DELAY
    with socket.socket() as here, pytest.raises(OSError):  # noqa: PT011 - this network does not have the address
        here.bind((ways.NEAR, 0))


@pytest.mark.process
@pytest.mark.parametrize("column", OURS[:2], ids=lambda column: column.key)
def test_quick_run_gives_figures(column: ways.Column, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    need("iperf3")
    need("nginx")
    ways.make_certificates(tmp_path)
    monkeypatch.setenv("RTUNNEL_PKI_DIR", str(tmp_path))
    monkeypatch.setattr(udp, "RATE", 200)
    monkeypatch.setattr(udp, "LOSSES", (0,))
    start = partial(ways.fresh, column, tmp_path)
    with closing(LossyNetwork()) as network, stage.services(tmp_path) as ends, start(ends) as way:
        case = Case(way, partial(start, ends), start)
        lost, cpu = udp.steady(1, 1200).take(case)
        assert lost is not None
        assert lost < 100
        assert cpu is not None
        across = udp.across(network, 0.2, tmp_path).take(case)
        assert len(across) == 2
        assert all(figure is not None for figure in across)
