"""The fixture through which every test of this folder starts its processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.harness import Twistds


@pytest.fixture
def twistd(tmp_path: Path) -> Iterator[Twistds]:
    """Starts ``twistd -n ARGUMENTS``; whatever is still running when the test is over is ended."""
    started = Twistds(tmp_path)
    yield started
    started.end_all()
