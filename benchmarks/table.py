"""Print the table of a run from its kept results.

    python -m benchmarks.table benchmarks/results/last.json

A column shows the median of its rounds, and beside it the median of the rounds' ratios to ``direct``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.parts import median, ratio

DIRECT = "direct"


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
    text = [f"{'':34}" + "".join(f"{each['title']:>{8 if each['key'] == DIRECT else 12}}" for each in columns)]
    for row in report["rows"]:
        line = f"{row['name']}, {row['unit']:{32 - len(row['name'])}}"
        for column in columns:
            key = column["key"]
            figure, share = median(row["figures"].get(key, [])), to_direct(row, key)
            if key == DIRECT:
                line += f"{short(figure) if figure is not None else '':>8}"
            else:
                line += f"{short(figure):>7}{'' if share is None else times(share):>5}"
        text.append(line.rstrip())
    text.append("")
    text += [f"{column['title']:12}{column['about']}" for column in columns]
    text += [f"{title:12}left out: {reason}" for title, reason in report["missing"].items()]
    return text


if __name__ == "__main__":
    kept = json.loads(Path(sys.argv[1]).read_text())
    print("\n".join([kept["machine"], "", *lines(kept)]))
