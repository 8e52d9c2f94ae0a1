"""The package, built once, for all tests that install it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.process.harness import clean_environment

ROOT = Path(__file__).parent.parent.parent
NO_INDEX = (
    r"No matching distribution found|Failed to establish a new connection|Temporary failure in name resolution|"
    r"Failed to fetch|error sending request"
)


def run(argv: Sequence[str | Path], cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command that has to succeed, and return what it prints; skips when there is no package index."""
    done = subprocess.run(
        argv, cwd=cwd, env=clean_environment(env), capture_output=True, text=True, timeout=600, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode and re.search(NO_INDEX, output):
        pytest.skip("there is no package index in reach")
    assert done.returncode == 0, f"{argv}\n{output}"
    return output


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree, so that builds leave nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "rtunnel"
    unwanted = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "dropin.cache", "venv", "results"
    )
    shutil.copytree(ROOT, copy, ignore=unwanted)
    return copy


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution: so that one is whole too."""
    dist = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--outdir", dist, source], cwd=dist)
    (built,) = dist.glob("*.whl")
    return built
