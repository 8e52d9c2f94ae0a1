"""``make bench``: reading the reports of load programs, the table, and the chart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import chart, costs, parts, run, table
from benchmarks.rows import ADDED, ROUND_TRIP, Case, Measurement, Row
from benchmarks.ways import COLUMNS, Way, stream_module

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
    rows: list[dict[str, Any]] = [
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
            "name": ROUND_TRIP,
            "unit": "ms",
            "lower_is_better": True,
            "figures": {direct: [0.05, 0.05, 0.05], own: [0.15, 0.20, 0.10], "ssh": [5.0, None, 15.0]},
        },
    ]
    kept = {
        "machine": "2 cores of a <test>",
        "columns": [{"key": key, "title": key, "about": f"about {key}"} for key in (direct, own, "ssh")],
        "missing": {"nginx": "nginx is not installed"},
        "rows": rows,
        "handshakes": {},
    }
    run.added(kept)
    return kept


def test_wrk_report_is_read_in_all_its_units() -> None:
    assert parts.parse_wrk(WRK) == parts.Answers(34156.72, 0.355, 1200.0)


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
    assert parts.parse_iperf3(output) == parts.Transfer(5.0, 1_250_000_000)


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

    case = Case(Way(1, 2), lambda: pytest.fail("nobody asked for another way"))
    assert run.take(Measurement((Row("a", "ms"), Row("b", "ms")), fail), case, "nginx") == (None, None)
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
        "added round trip, ms 0.100 9.95",
    ]
    assert squeezed[-1] == "nginx left out: nginx is not installed"
    assert text[0].index("rtunnel") + len("rtunnel") == text[1].index("0.65") + len("0.65")


def test_added_round_trip_is_that_of_the_same_round() -> None:
    (row,) = (row for row in report()["rows"] if row["name"] == ADDED)
    assert row["figures"] == {
        "rtunnel": [pytest.approx(0.10), pytest.approx(0.15), pytest.approx(0.05)],
        "ssh": [pytest.approx(4.95), None, pytest.approx(14.95)],
    }


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


def test_every_column_has_a_colour_and_a_short_title() -> None:
    assert set(chart.COLOURS) == {column.key for column in COLUMNS} - {table.DIRECT}
    assert all(len(column.title) < 12 for column in COLUMNS)


def test_readme_shows_a_chart_of_all_columns() -> None:
    assert ".. image:: docs/benchmark.svg" in (ROOT / "README.rst").read_text()
    inside = "".join(ET.parse(ROOT / "docs/benchmark.svg").getroot().itertext())
    missing = [each.title for each in COLUMNS if each.key != table.DIRECT and f"{each.title}:" not in inside]
    assert not missing


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
