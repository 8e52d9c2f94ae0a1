"""Interpreters that are too old or have gone: one line, or a new environment, and no traceback."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import rtunnel
from tests.patience import PATIENCE
from tests.process.harness import need

MAKEFILE = Path(__file__).parent.parent.parent / "Makefile"


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    with pytest.raises(SystemExit) as caught:
        importlib.reload(rtunnel)
    assert caught.value.code == "rtunnel needs Python 3.11 or later, and this is 3.9"


@pytest.mark.process
@pytest.mark.parametrize("interpreter", ["gone", "too old", "fine"])
def test_make_and_the_interpreter_of_its_environment(tmp_path: Path, interpreter: str) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "setup.cfg").touch()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "venv" / ".installed").touch()
    if interpreter == "gone":
        python.symlink_to(tmp_path / "nowhere")
    else:
        python.write_text(f"#!/bin/sh\nexit {int(interpreter == 'too old')}\n")
        python.chmod(0o755)
    argv = [need("make"), "-n", "-f", str(MAKEFILE), f"VENV={tmp_path}/venv", "demo"]
    plan = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert (f"-m venv --clear {tmp_path}/venv" in plan) is (interpreter != "fine")
    assert ("install --editable" in plan) is (interpreter != "fine")


@pytest.mark.process
def test_make_clears_no_directory_that_is_no_environment(tmp_path: Path) -> None:
    mine = tmp_path / "home" / "letters"
    mine.parent.mkdir()
    mine.touch()
    argv = [need("make"), "-n", "-f", str(MAKEFILE), f"VENV={mine.parent}", "demo"]
    for name in ("setup.cfg", "pyproject.toml"):
        (tmp_path / name).touch()
    plan = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert f"-m venv  {mine.parent}" in plan
    assert "--clear" not in plan
    assert mine.exists()
