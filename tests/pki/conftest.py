"""Directories with certificates."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rtunnel.options.command import main
from rtunnel.pki import operations
from rtunnel.pki.store import Store
from tests.pki.parts import HOSTS, Done, Run


@pytest.fixture(scope="session")
def first_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("first") / "pki")
    operations.init(made, HOSTS)
    return made


@pytest.fixture
def store(first_store: Store, tmp_path: Path) -> Store:
    """A directory with a CA and a server, which are the same for all tests."""
    shutil.copytree(first_store.directory, tmp_path / "pki")
    return Store(tmp_path / "pki")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    """A directory on another machine."""
    return Store(tmp_path / "elsewhere")


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``rtunnel ARGUMENTS`` in this process, in a directory of its own, with the directory ``pki`` in it."""
    monkeypatch.setenv("RTUNNEL_PKI_DIR", str(tmp_path / "pki"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        code = main(arguments)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return call
