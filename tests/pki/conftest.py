"""Directories with certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtunnel.pki import operations
from rtunnel.pki.store import Store
from tests.pki.parts import HOSTS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A directory with a CA and a server."""
    made = Store(tmp_path / "pki")
    operations.init(made, HOSTS)
    return made


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    """A directory on another machine."""
    return Store(tmp_path / "elsewhere")
