"""``make bench``: reading the reports of load programs, the table, and the chart."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import chart, costs, hello, parts, rows, run, stage, table
from benchmarks.others import OTHERS, stream_module
from benchmarks.rivals import RIVALS
from benchmarks.rows import Case, Measurement, Row
from benchmarks.ways import OURS, Way
from rtunnel.wire.web.client_hello import HelloReader

ROOT = Path(__file__).parent.parent

WRK = """\
Running 1s test @ http://127.0.0.1:45235/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.55ms   12.18ms 111.24ms   97.00%
    Req/Sec    34.44k     3.08k   38.40k    80.00%
  Latency Distribution
     50%  355.00us
     75%    1.02ms
     90%    1.77ms
     99%    1.20s
  37683 requests in 1.10s, 9.41MB read
Requests/sec:  34156.72
Transfer/sec:      8.53MB
"""


def report() -> dict[str, Any]:
    """Return three rounds of three columns. Something failed in two of the columns."""
    direct, own = "direct", "rtunnel"
    measured: list[dict[str, Any]] = [
        {
            "name": "throughput to the service",
            "unit": "Gbit/s",
            "lower_is_better": False,
            "figures": {direct: [20.0, 10.0, 30.0], own: [10.0, 8.0, None], "ssh": [None, None, None]},
        },
        {
            "name": "CPU, to the service",
            "unit": "s/GB",
            "lower_is_better": True,
            "figures": {direct: [None, None, None], own: [0.4, 0.5, 0.6], "ssh": [3.0, 3.0, 3.0]},
        },
        {
            "name": "round trip, 1 connection",
            "unit": "ms",
            "lower_is_better": True,
            "figures": {direct: [0.05, 0.05, 0.05], own: [0.15, 0.20, 0.10], "ssh": [5.0, None, 15.0]},
        },
    ]
    return {
        "machine": "2 cores of a <test>",
        "columns": [{"key": key, "title": key, "about": f"about {key}"} for key in (direct, own, "ssh")],
        "missing": {"nginx": "nginx is not installed"},
        "rows": measured,
    }


def test_wrk_report_is_read_in_all_its_units() -> None:
    assert parts.parse_wrk(WRK) == parts.Answers(37683, 34156.72, 0.355, 1200.0)


@pytest.mark.parametrize(
    "line",
    ["  Non-2xx or 3xx responses: 12", "  Socket errors: connect 0, read 3, write 0, timeout 0"],
)
def test_wrk_report_with_errors_is_no_figure(line: str) -> None:
    with pytest.raises(parts.Failed, match=line.strip()):
        parts.parse_wrk(WRK.replace("Requests/sec", f"{line}\nRequests/sec"))


def test_wrk_that_could_not_connect_is_no_figure() -> None:
    with pytest.raises(parts.Failed, match="unable to connect"):
        parts.parse_wrk("unable to connect to 127.0.0.1:1 Connection refused")


def test_iperf3_report_is_read_by_what_arrived() -> None:
    total = {"bytes": 1_250_000_000, "bits_per_second": 5e9}
    output = json.dumps({"end": {"sum_sent": {"bytes": 1, "bits_per_second": 1.0}, "sum_received": total}})
    assert parts.parse_iperf3(output) == parts.Transfer(5.0, 1_250_000_000, 1)


def test_iperf3_tells_busy_from_other_errors() -> None:
    with pytest.raises(parts.Busy):
        parts.parse_iperf3('{"error": "error - the server is busy running a test. try again later"}')
    with pytest.raises(parts.Failed, match="refused") as caught:
        parts.parse_iperf3('{"error": "error - unable to connect to server: Connection refused"}')
    assert not isinstance(caught.value, parts.Busy)
    with pytest.raises(parts.Failed, match="Killed"):
        parts.parse_iperf3("Killed")


@pytest.mark.process
def test_load_program_that_does_not_end_fails_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "GRACE", 0.1)
    with pytest.raises(parts.Failed, match="did not end"):
        parts.load([sys.executable, "-c", "import signal; signal.pause()"], 0.1)


def test_failed_measurement_leaves_its_cells_empty_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(case: Case) -> tuple[float | None, ...]:
        return (parts.parse_wrk("nothing").p50, None)

    case = Case(Way(1, 2), lambda: pytest.fail("nobody asked for another way"), nullcontext)
    assert stage.take(Measurement((Row("a", "ms"), Row("b", "ms")), fail), case, "nginx") == (None, None)
    assert capsys.readouterr().err == "  nginx, a: wrk said: nothing\n"


def test_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_medians() -> None:
    assert parts.ratio([10.0, 8.0, 3.0], [20.0, 10.0, 30.0]) == 0.5
    assert parts.ratio([10.0, None, 3.0], [20.0, 10.0, None]) == 0.5
    assert parts.ratio([None], [1.0]) is None


def test_table_has_medians_ratios_and_who_was_left_out() -> None:
    text = table.lines(report())
    squeezed = [" ".join(line.split()) for line in text]
    assert squeezed[:5] == [
        "direct rtunnel ssh",
        "throughput to the service, Gbit/s 20.0 9.00 0.65 -",
        "CPU, to the service, s/GB 0.500 3.00",
        "round trip, 1 connection, ms 0.050 0.150 3.00 10.0 200",
        "",
    ]
    assert squeezed[-1] == "nginx left out: nginx is not installed"
    assert text[0].index("rtunnel") + len("rtunnel") == text[1].index("0.65") + len("0.65")


def test_long_title_takes_several_lines_of_the_table() -> None:
    kept = report()
    kept["columns"][1]["title"] = "rtunnel --tls 1234567"
    text = table.lines(kept)
    assert [" ".join(line.split()) for line in text[:3]] == ["rtunnel", "--tls", "direct 1234567 ssh"]
    words = ("rtunnel", "--tls", "1234567")
    assert len({line.index(word) + len(word) for line, word in zip(text[:3], words, strict=True)}) == 1


def test_table_has_the_ratios_to_the_baseline() -> None:
    """Each is the median of the rounds in which both gave a figure."""
    kept = report()
    assert not table.against_baseline(kept)
    kept["columns"].append({"key": "baseline", "title": "rtunnel abc", "about": "rtunnel at abc"})
    for row, figures in zip(kept["rows"], ([5.0, 2.0, 1.0], [None, 1.0, 1.2], [None] * 3), strict=True):
        row["figures"]["baseline"] = figures
    assert table.against_baseline(kept) == [
        "",
        "rtunnel in relation to rtunnel abc:",
        "   3.00  throughput to the service",
        "   0.50  CPU, to the service",
        "      -  round trip, 1 connection",
    ]


def test_what_is_kept_has_medians_and_ratios() -> None:
    kept = report()
    run.summarise(kept)
    assert kept["rows"][0]["median"] == {"direct": 20.0, "rtunnel": 9.0, "ssh": None}
    assert kept["rows"][0]["ratio"] == {"direct": 1.0, "rtunnel": pytest.approx(0.65), "ssh": None}
    json.dumps(kept)


def test_chart_is_a_picture_with_bars_as_long_as_the_ratios() -> None:
    picture = chart.chart(report())
    root = ET.fromstring(picture)
    inside = "".join(root.itertext())
    assert "2 cores of a <test>" in inside
    assert "CPU" not in inside
    bars = [float(bar.attrib["width"]) for bar in root if bar.find("{http://www.w3.org/2000/svg}title") is not None]
    # The row where more is better: rtunnel, and ssh, which failed; the other one: rtunnel, and ssh, cut.
    assert len(bars) == 4
    assert bars[1] == 0
    assert bars[3] / bars[2] == pytest.approx(chart.LONGEST / 3, rel=0.01)
    assert all(float(part.attrib["x"]) < chart.WIDTH for part in root if "x" in part.attrib)


@pytest.mark.process
def test_chart_and_table_are_made_by_their_commands(tmp_path: Path) -> None:
    kept, picture = tmp_path / "last.json", tmp_path / "chart.svg"
    kept.write_text(json.dumps(report()))
    subprocess.run([sys.executable, "-m", "benchmarks.chart", kept, picture], check=True, cwd=ROOT)
    assert picture.read_text() == chart.chart(report())
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.table", kept], check=True, cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert said.splitlines()[2:] == table.lines(report())


def test_every_column_has_a_colour_of_its_own() -> None:
    keys = [column.key for column in (*OURS, *OTHERS, *RIVALS)]
    assert sorted(chart.COLOURS) == sorted([*keys, *table.BASELINES.values()])
    assert len(set(chart.COLOURS.values())) == len(chart.COLOURS)
    assert set(table.BASELINES) < set(keys)


def test_chart_and_table_of_the_readme_are_of_one_run() -> None:
    readme = (ROOT / "README.rst").read_text()
    assert ".. image:: docs/benchmark.svg" in readme
    texts = [(part.get("class"), part.text or "") for part in ET.parse(ROOT / "docs/benchmark.svg").getroot()]
    names = [text for kind, text in texts if kind == "name"]
    assert len(names) > 5
    assert not [name for name in names if f"    {name}" not in readme]
    titles = [text.partition(": ")[0] for kind, text in texts if kind == "" and ": " in text]
    assert len(titles) > 3
    assert not [title for title in titles if not all(word in readme for word in title.split())]


@pytest.mark.process
def test_killed_program_is_started_again(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import signal; print('here', flush=True); signal.pause()"]
    with parts.running(argv, tmp_path / "log") as program:
        before = program.pid
        program.kill_and_restart()
        assert program.pid != before
        assert costs.family([before]) == {before}
        assert costs.stat(program.pid)
    assert not costs.stat(program.pid)


def test_figures_of_a_crowd_and_of_a_request_beside_a_bulk_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowd meets a fresh way first. The stream lasts longer than the requests beside it."""
    asked = []

    def ask(port: int) -> parts.Answers:
        asked.append(port)
        return parts.Answers(10, 5.0 * port, 0.1, float(len(asked)))

    case = Case(Way(1, 2), lambda: nullcontext(Way(3, 4)), nullcontext)
    assert rows.crowd("requests", "CPU", ask, "all").take(case) == (20.0, 10.0, None, 0.1, 1.0)
    assert asked == [4, 2]
    lasted = []
    monkeypatch.setattr(rows, "LEAD", 0.01)
    monkeypatch.setattr(rows, "requests", lambda seconds, connections: ask)
    monkeypatch.setattr(rows, "throughput", lambda seconds, *options: lambda port: lasted.append((seconds, port)))
    assert rows.beside(1.0).take(case) == (0.1, 3.0, 4.0, 4.0 / 3.0)
    assert lasted == [(1.02, 1)]


def test_figures_by_name_and_by_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In turns; a way that knows no names has the first only, and one without the service nothing."""
    asked = []

    def ask(port: int) -> parts.Answers:
        asked.append(port)
        return parts.Answers(10, 10.0 * port + len(asked), 0.1, 0.2)

    monkeypatch.setattr(rows, "requests", lambda seconds, connections, script: ask)
    take = rows.by_name(2.0, 32, tmp_path).take

    def figures(way: Way) -> tuple[float | None, ...]:
        return take(Case(way, lambda: pytest.fail("not needed"), lambda services: pytest.fail("not needed")))

    assert figures(Way(1, 2)) == (None, None, None)
    assert figures(Way(1, 2, hello=3)) == (31.0, None, None)
    asked.clear()
    assert figures(Way(1, 2, hello=3, by_name=4)) == (32.5, 42.5, 42.5 / 32.5)
    assert asked == [3, 4, 4, 3]


def test_script_sends_the_hello_of_the_name(tmp_path: Path) -> None:
    """As Lua writes bytes: three digits for each."""
    text = hello.script(tmp_path).read_text()
    [written] = re.findall(r'"((?:\\\d{3})+)"', text)
    sent = bytes(int(number) for number in written.split("\\")[1:])
    found = HelloReader().take(sent)
    assert found is not None
    assert found.name == hello.NAME
    assert len(sent) > 1460, "a post-quantum one"


@pytest.mark.process
def test_visitor_is_waited_for_until_one_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = parts.free_ports(1)
    with monkeypatch.context() as patch:
        patch.setattr(costs, "PATIENCE", 0.0)
        with pytest.raises(parts.Failed, match=r"no visitor is served: .*refused"):
            costs.wait_for_visitor(port)
    script = (
        f"import socket; server = socket.create_server(('127.0.0.1', {port})); server.accept()[0].close(); "
        "visitor = server.accept()[0]; visitor.recv(999); visitor.sendall(b'x' * 100); visitor.recv(1)"
    )
    with parts.running([sys.executable, "-c", script], tmp_path / "log"):
        costs.wait_for_visitor(port)


@pytest.mark.process
def test_processes_are_counted_with_their_children() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(costs.family([process.pid])) == 2
        assert costs.resident([process.pid]) > 2_000_000
        assert costs.cpu_seconds([process.pid]) >= 0
        process.communicate(b"\n")
    assert costs.family([process.pid]) == {process.pid}
    assert costs.resident([process.pid]) == 0


@pytest.mark.process
def test_nginx_is_asked_for_its_stream_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module may be built in, in a file, or missing."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    program = tmp_path / "nginx"
    program.touch(0o755)
    program.write_text("#!/bin/sh\necho 'configure arguments: --with-stream --with-threads' >&2\n")
    assert stream_module() == ""
    program.write_text(f"#!/bin/sh\necho 'configure arguments: --modules-path={tmp_path} --with-stream=dynamic' >&2\n")
    with pytest.raises(parts.Failed, match="libnginx-mod-stream"):
        stream_module()
    (tmp_path / "ngx_stream_module.so").touch()
    assert stream_module() == f"load_module {tmp_path}/ngx_stream_module.so;"
