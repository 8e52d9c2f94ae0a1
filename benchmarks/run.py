"""Measure the tunnels: the same load direct, through each tunnel, and through other programs that do the same job.

    python -m benchmarks.run [--quick] [--seconds 3] [--rounds 3] [--only throughput] [--json results/last.json]

If the variable BENCH_BASELINE names a git revision of this package, that runs too, in the same rounds. If BENCH_RIVALS
names a folder, the programs to compare with are looked for there too.

Everything runs on this machine, over loopback: iperf3's server and nginx as the services, both ends of each tunnel, and
the programs that make the load. All share the same cores, so a figure by itself means little; its ratio to the direct
figure of the same round means more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from contextlib import ExitStack, closing
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import table, udp, webrtc
from benchmarks.lossy import LossyNetwork
from benchmarks.others import OTHERS
from benchmarks.parts import Failed, attempt, median
from benchmarks.rivals import RIVALS
from benchmarks.rows import Case, Row, measurements
from benchmarks.stage import services, take, ways
from benchmarks.ways import DIRECT, OURS, baseline, fresh, make_certificates

HERE = Path(__file__).parent


def machine() -> str:
    """Describe the machine in one line."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        cpuinfo = []
    model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), "")
    return ", ".join(
        [
            *(f"{os.cpu_count()} cores of {model or platform.machine()}", f"{platform.system()} {platform.release()}"),
            f"Python {platform.python_version()}",
        ]
    )


def measure(seconds: float, rounds: int, only: str, revision: str) -> dict[str, Any]:
    """Measure all columns, one load after the other, and return the report.

    :param revision: see :func:`benchmarks.ways.baseline`.
    :raises Failed: a required program is missing or did not start.
    """
    report: dict[str, Any] = {"machine": machine(), "load_before": os.getloadavg(), "seconds": seconds}
    with tempfile.TemporaryDirectory(prefix="rtunnel-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        make_certificates(directory)
        os.environ["RTUNNEL_PKI_DIR"] = name
        every = [*measurements(seconds, directory), *udp.measurements(seconds)]
        across: dict[str, str] = {}
        try:
            network = stack.enter_context(closing(LossyNetwork()))
            every.append(udp.across(network, seconds, directory))
        except Failed as reason:
            across["UDP with loss"] = str(reason)
        wanted = [each for each in every if any(only in row.name for row in each.rows)]
        ends = stack.enter_context(services(directory))
        before = stack.enter_context(baseline(revision, directory))
        started = ways((DIRECT, *OURS, *before, *OTHERS, *RIVALS), directory, ends)
        columns, missing = stack.enter_context(started)
        figures: dict[Row, dict[str, list[float | None]]] = {
            row: {column.key: [] for column in columns} for each in wanted for row in each.rows
        }
        for turn in range(rounds):
            print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
            for each, (column, way) in product(wanted, columns.items()):
                start = partial(fresh, column, directory)
                taken = take(each, Case(way, partial(start, ends), start), column.title)
                for row, figure in zip(each.rows, taken, strict=True):
                    figures[row][column.key].append(figure)
    return report | {
        "rounds": rounds,
        "columns": [{"key": column.key, "title": column.title, "about": column.about} for column in columns],
        "missing": missing | across,
        "rows": [
            {"name": row.name, "unit": row.unit, "lower_is_better": row.lower_is_better, "figures": figures[row]}
            for row in figures
            if only in row.name
        ],
    }


def summarise(report: dict[str, Any]) -> None:
    """Add medians and ratios to the figures of the rounds."""
    for row in report["rows"]:
        row["median"] = {key: median(figures) for key, figures in row["figures"].items()}
        row["ratio"] = {key: table.to_direct(row, key) for key in row["figures"]}


def main() -> None:
    """Measure, print the tables, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts (default 3)")
    parser.add_argument("--only", default="", help="measure only rows with this in their name")
    parser.add_argument("--quick", action="store_true", help="one round of measurements of one second")
    parser.add_argument("--json", type=Path, default=HERE / "results/last.json", help="where the figures are kept")
    options = parser.parse_args()
    seconds, rounds = (1.0, 1) if options.quick else (options.seconds, options.rounds)
    try:
        revision = os.environ.get("BENCH_BASELINE", "")
        report = measure(seconds, rounds, options.only, revision)
    except Failed as failure:
        sys.exit(f"the benchmark cannot run: {failure}")
    summarise(report)
    load = report["load_before"][0]
    busy = f"; it was busy before (load {load:.1f}), so do not trust this" if load > 0.5 else ""
    print(f"{report['machine']}; median of {rounds} rounds of {seconds:g} s{busy}\n")
    if report["rows"]:
        print("\n".join(table.lines(report)))
    report["webrtc"] = attempt("WebRTC", partial(webrtc.measure, seconds, rounds, options.only, revision))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2))
    print(f"\nkept in {options.json}")


if __name__ == "__main__":
    main()
