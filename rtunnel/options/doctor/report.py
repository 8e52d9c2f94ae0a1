"""How an examination is shown: a line for each step, and what to do at the end; or JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rtunnel.doctor.steps import Examination, Status, Step

_STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.SKIPPED: "dim"}
_WORDS = {Status.OK: "ok", Status.WARN: "warn", Status.FAIL: "FAIL", Status.SKIPPED: "-"}
#: Columns of the name of a step.
_NAME = 12


class Report:
    """What is printed.

    :param as_json: print one object at the end, and nothing before.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=not sys.stdout.isatty())

    def step(self, step: Step) -> None:
        """Show a step that is over."""
        if self._as_json:
            return
        seconds = f" ({step.seconds:.2f} s)" if step.seconds >= 0.01 else ""
        word = Text(f"{_WORDS[step.status]:<5}", style=_STYLES[step.status])
        if not self._console.is_terminal:
            # One line, whatever its length.
            self._console.print(Text.assemble(word, f"{step.name:<{_NAME}} {step.text}{seconds}"))
            return
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_column(width=5)
        line.add_column(min_width=_NAME)
        line.add_column(overflow="fold")
        line.add_row(word, Text(step.name), Text.assemble(step.text, (seconds, "dim")))
        self._console.print(line)

    def end(self, kind: str, examination: Examination) -> None:
        """Show what to do.

        :param kind: which end was examined.
        """
        advice = list(dict.fromkeys(step.advice for step in examination.steps if step.advice))
        if self._as_json:
            found = {
                "version": 1,
                "end": kind,
                "ok": examination.is_well,
                "steps": [asdict(step) for step in examination.steps],
                "advice": advice,
            }
            sys.stdout.write(json.dumps(found, indent=2) + "\n")
            return
        if not advice:
            text = "All is well." if examination.is_well else "The lines with FAIL say what is wrong."
            self._console.print(Text(f"\n{text}"))
            return
        self._console.print(Text("\nWhat to do:", style="bold"))
        for number, each in enumerate(advice, 1):
            if self._console.is_terminal:
                self._console.print(Padding(Text(f"{number}. {each}"), (0, 0, 0, 2)))
            else:
                self._console.print(Text(f"  {number}. {each}"))
