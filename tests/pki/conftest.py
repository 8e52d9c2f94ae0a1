"""Directories with certificates."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rtunnel.pki import operations
from rtunnel.pki.store import Store
from tests.pki.parts import HOSTS


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
