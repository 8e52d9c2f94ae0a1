"""Processes as an engine for containers runs them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.patience import PATIENCE
from tests.process.harness import Process, need, poll


class First(Process):
    """The first process of a PID namespace of its own, as that of a container is."""

    def __init__(self, argv: list[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        unshare = [need("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"]
        super().__init__([*unshare, *argv], cwd=cwd, env=env)

    @property
    def inside(self) -> int:
        """Its process ID out here."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return int(poll(lambda: children.read_text().strip(), PATIENCE, "unshare has forked"))

    def __enter__(self) -> Self:
        return self

    def stop(self) -> int:
        """What the engine does; the exit code."""
        os.kill(self.inside, 15)
        return self.wait()
