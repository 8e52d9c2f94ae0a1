"""Print the table of a run from its kept results.

    python -m benchmarks.table benchmarks/results/last.json

A column shows the median of its rounds, and beside it the median of the rounds' ratios to ``direct``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from textwrap import wrap
from typing import Any

from benchmarks.parts import median, ratio

DIRECT = "direct"
#: Which column shows an earlier state of another one.
BASELINES = {"rtunnel": "baseline", "rtunnel-tls": "baseline-tls"}
#: The same in the table of the WebRTC tunnel.
RTC_BASELINES = {"webrtc": "webrtc-baseline"}


def short(figure: float | None) -> str:
    """Format a figure with at least three digits."""
    if figure is None:
        return "-"
    digits = next((digits for digits, least in enumerate((100, 10, 1)) if abs(figure) >= least), 3)
    return f"{figure:,.{digits}f}"


def to_direct(row: dict[str, Any], key: str) -> float | None:
    """Return the ratio of a column to ``direct``, or None if there is no figure."""
    figures = row["figures"]
    return ratio(figures[key], figures[DIRECT]) if key in figures and DIRECT in figures else None


def times(share: float | None) -> str:
    """Format a ratio."""
    if share is None:
        return "-"
    return f"{share:.{2 if share < 10 else 1 if share < 100 else 0}f}"


def lines(report: dict[str, Any]) -> list[str]:
    """Return the lines of the table, and of its legend."""
    columns = report["columns"]
    widths = [8 if column["key"] == DIRECT else 12 for column in columns]
    names = [", ".join(filter(None, (row["name"], row["unit"]))) for row in report["rows"]]
    first = max(map(len, names), default=0) + 1
    titles = [wrap(column["title"], 11, break_on_hyphens=False) for column in columns]
    high = max(map(len, titles))
    text = [
        (" " * first + "".join(f"{title:>{width}}" for title, width in zip(line, widths, strict=True))).rstrip()
        for line in zip(*([""] * (high - len(title)) + title for title in titles), strict=True)
    ]
    for row, name in zip(report["rows"], names, strict=True):
        line = f"{name:{first}}"
        for column in columns:
            key = column["key"]
            figure, share = median(row["figures"].get(key, [])), to_direct(row, key)
            if key == DIRECT:
                line += f"{short(figure) if figure is not None else '':>8}"
            else:
                line += f"{short(figure):>7}{'' if share is None else times(share):>5}"
        text.append(line.rstrip())
    text += against_baseline(report)
    width = max(len(title) for title in (*(column["title"] for column in columns), *report["missing"])) + 2
    text.append("")
    text += [f"{column['title']:{width}}{column['about']}" for column in columns]
    text += [f"{title:{width}}left out: {reason}" for title, reason in report["missing"].items()]
    return text


def against_baseline(report: dict[str, Any]) -> list[str]:
    """Return the lines about the ratios to the baseline, if there is one: the medians of the rounds' ratios."""
    titles = {column["key"]: column["title"] for column in report["columns"]}
    text = []
    for now, before in (BASELINES | RTC_BASELINES).items():
        if before in titles:
            text += ["", f"{titles[now]} in relation to {titles[before]}:"]
            for row in report["rows"]:
                share = ratio(row["figures"][now], row["figures"][before])
                text.append(f"{times(share):>7}  {row['name']}")
    return text


if __name__ == "__main__":
    kept = json.loads(Path(sys.argv[1]).read_text())
    print("\n".join([kept["machine"], "", *lines(kept)]))
