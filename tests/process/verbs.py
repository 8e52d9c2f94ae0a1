"""The commands of ``rtunnel`` that ask running processes, as an operator types them."""

from __future__ import annotations

import json
from typing import Any

from tests.process.harness import Twistds


def say(twistd: Twistds, *arguments: str) -> tuple[int, str]:
    """Run ``rtunnel ARGUMENTS``; its exit code, and all that it prints."""
    process = twistd.rtunnel(*arguments, env={"COLUMNS": "160"})
    return process.wait(), process.output


def look(twistd: Twistds, name: str) -> dict[str, Any]:
    """What ``rtunnel status`` says of the only such process."""
    _, out = say(twistd, "status", name, "--json")
    [found] = json.loads(out.partition("\nrtunnel status: ")[0])
    assert isinstance(found, dict)
    return found
