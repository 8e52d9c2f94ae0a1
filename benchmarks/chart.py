"""Draw the chart of a run from its kept results: ratios to direct, as bars in an SVG.

python -m benchmarks.chart benchmarks/results/last.json docs/benchmark.svg
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.table import DIRECT, times, to_direct

WIDTH, MARGIN, BAR, GAP, LABEL = 920, 20, 12, 18, 36
#: Bars are cut off at this ratio, with the figure beside them, so that one bad figure does not flatten all others.
LONGEST = 10.0
COLOURS = {
    "rtunnel": "#1f6feb",
    "rtunnel-tls": "#1a7f4b",
    "mux-tls": "#86cfa6",
    "baseline": "#8ab8ff",
    "baseline-tls": "#b7e0c7",
    "nginx": "#d97706",
    "ssh": "#8c8f94",
    "rathole": "#8250df",
    "rathole-noise": "#c297ff",
    "frp": "#bf3989",
    "frp-tls": "#ff80c8",
    "bore": "#9a6700",
    "wstunnel": "#0e8a8a",
    "wstunnel-tls": "#7fd1d1",
    "chisel": "#cf222e",
}
HEADS = ("Ratio to direct: more is better", f"Ratio to direct, cut at {LONGEST:.0f}: less is better")
#: The picture has its own background, so that it can be read on any page.
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f } .paper { fill: #ffffff } .line { stroke: #8c8f94 }
.head { font-size: 14px; font-weight: 600 } .name { font-weight: 600 } .small { font-size: 11px; fill: #57606a }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .paper { fill: #0d1117 } .small { fill: #9ea7b3 }
}
"""


def text(x: float, y: float, content: str, kind: str = "") -> str:
    """Return a line of text as SVG."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(content)}</text>'


def bars(row: dict[str, Any], columns: list[dict[str, Any]], x: int, y: int, one: float) -> list[str]:
    """Return a row as SVG: its name, a bar for each column, and the line at 1.

    :param one: the length of the ratio 1.
    """
    parts = [text(x, y, row["name"], "name")]
    top = y + 6
    for number, column in enumerate(columns):
        share, here = to_direct(row, column["key"]), top + number * BAR
        length = min(share or 0.0, LONGEST) * one
        parts.append(
            f'<rect x="{x}" y="{here}" width="{length:.1f}" height="{BAR - 2}" fill="{COLOURS[column["key"]]}">'
            f"<title>{escape(column['title'])}</title></rect>"
        )
        parts.append(text(x + length + 4, here + BAR - 3, times(share), "small"))
    end = top + len(columns) * BAR
    parts.append(f'<line x1="{x + one:.1f}" x2="{x + one:.1f}" y1="{top - 2}" y2="{end}" class="line"/>')
    return parts


def chart(report: dict[str, Any]) -> str:
    """Return the SVG: on the left the rows where more is better, on the right those where less is better."""
    columns = [column for column in report["columns"] if column["key"] != DIRECT]
    shown = [row for row in report["rows"] if any(to_direct(row, column["key"]) for column in columns)]
    halves = [[row for row in shown if bool(row["lower_is_better"]) is lower] for lower in (False, True)]
    parts = [text(MARGIN, 28, "What a tunnel leaves of a direct connection (the line at 1)", "head")]
    parts.append(text(MARGIN, 48, report["machine"], "small"))
    for number, column in enumerate(columns):
        x, y = MARGIN + number % 2 * WIDTH // 2, 62 + number // 2 * 17
        parts.append(f'<rect x="{x}" y="{y}" width="11" height="11" fill="{COLOURS[column["key"]]}"/>')
        parts.append(text(x + 17, y + 10, f"{column['title']}: {column['about']}"))
    head = 62 + (len(columns) + 1) // 2 * 17 + 24
    step = BAR * len(columns) + GAP + 6
    for half, rows in enumerate(halves):
        x = MARGIN + half * WIDTH // 2
        parts.append(text(x, head, HEADS[half], "head"))
        most = max((to_direct(row, column["key"]) or 0.0 for row in rows for column in columns), default=1.0)
        one = (WIDTH // 2 - MARGIN - LABEL) / min(max(most, 1.0), LONGEST)
        for number, row in enumerate(rows):
            parts += bars(row, columns, x, head + 24 + number * step, one)
    height = head + 16 + max(len(rows) for rows in halves) * step
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    )
    paper = f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>'
    return "\n".join([opening, f"<style>{STYLE}</style>", paper, *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(chart(json.loads(Path(sys.argv[1]).read_text())))
