"""``rtunnel doctor`` as tests run it, and what it reports."""

from __future__ import annotations

import json
from typing import Any

from tests.process.commands import run_rtunnel


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``rtunnel doctor``."""
    return run_rtunnel("doctor", *arguments, env=env)


class Report:
    """What ``rtunnel doctor --json`` says.

    :ivar steps: what came out of each kind of step.
    """

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.code, out, err = run(*arguments, "--json", env=env)
        assert err == ""
        self.found: dict[str, Any] = json.loads(out)
        assert self.found["version"] == 1
        assert self.found["ok"] == (self.code == 0)
        self.steps: dict[str, list[dict[str, Any]]] = {}
        for step in self.found["steps"]:
            self.steps.setdefault(step["name"], []).append(step)
            assert step["seconds"] < 6
        self.advice = "\n".join(self.found["advice"])

    def status(self, name: str) -> str:
        """How the first step of that name ended."""
        return str(self.steps[name][0]["status"])

    def text(self, name: str) -> str:
        """What the first step of that name found."""
        return str(self.steps[name][0]["text"])

    def failed(self) -> list[str]:
        return [name for name, steps in self.steps.items() for step in steps if step["status"] == "fail"]
