"""What lies on aiortc and aioice is tested here with the oldest releases that setup.cfg allows; elsewhere the newest.

Both are used below their public interface (docs/architecture.rst, "Tested series of aiortc and aioice only").
"""

from __future__ import annotations

import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.packaging.conftest import ROOT, run

pytestmark = pytest.mark.packaging

NAMES = ("aioice", "aiortc")


def oldest() -> list[str]:
    """The lowest versions, as pip is asked for them."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    found = [Requirement(line) for line in config["options"]["install_requires"].split("\n") if line.startswith(NAMES)]
    lowest = [f"{each.name} == {part.version}" for each in found for part in each.specifier if part.operator == ">="]
    assert len(lowest) == len(NAMES)
    return lowest


def test_oldest(tmp_path: Path) -> None:
    run([sys.executable, "-m", "venv", tmp_path / "venv"], cwd=tmp_path)
    python, folder = tmp_path / "venv/bin/python", tmp_path / "oldest"
    quietly = ["--disable-pip-version-check", "--quiet"]
    run([python, "-m", "pip", "install", *quietly, "--no-deps", "--target", folder, *oldest()], cwd=tmp_path)
    env = {"PYTHONPATH": str(folder)}
    code = "import aioice, aiortc; print(aioice.__file__, aiortc.__file__)"
    assert run([sys.executable, "-c", code], ROOT, env).count(str(folder)) == len(NAMES)
    tests = [sys.executable, "-m", "pytest", "-q", "--workers=2", "-p", "no:cacheprovider", "tests/rtc/aiortc"]
    print(run(tests, ROOT, env))
