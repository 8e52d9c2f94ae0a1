"""The package, built once, for all tests that install it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
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
    # pip compiles nothing that nobody imports: most of an installation's time. As its manual says, "no" turns this off.
    environment = clean_environment({"PIP_NO_COMPILE": "no", **(env or {})})
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)
    output = done.stdout + done.stderr
    if done.returncode and re.search(NO_INDEX, output):
        pytest.skip("there is no package index in reach")
    assert done.returncode == 0, f"{argv}\n{output}"
    return output


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A directory of that name, which the first worker that needs it has made with *make*. The others wait for it."""
    everybodys = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        everybodys = everybodys.parent
    directory, is_made = everybodys / name, everybodys / f"{name} is made"
    with (everybodys / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_made.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
            is_made.touch()
    return directory


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree, so that builds leave nothing in the checkout."""

    def copy(directory: Path) -> None:
        unwanted = shutil.ignore_patterns(
            ".*", "build", "dist", "*.egg-info", "__pycache__", "dropin.cache", "venv", "results"
        )
        shutil.copytree(ROOT, directory / "rtunnel", ignore=unwanted)

    return made_once(tmp_path_factory, "source", copy) / "rtunnel"


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution: so that one is whole too."""

    def build(directory: Path) -> None:
        run([sys.executable, "-m", "build", "--outdir", directory, source], cwd=directory)

    (built,) = made_once(tmp_path_factory, "dist", build).glob("*.whl")
    return built
