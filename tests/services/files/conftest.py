"""A directory with what visitors may see, and with what they may not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SECRET = b"a secret"


@pytest.fixture
def share(tmp_path: Path) -> Path:
    root = tmp_path / "share"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (root / "a.txt").write_bytes(b"0123456789")
    (root / "sub" / "b.txt").write_bytes(b"b")
    (root / "sub" / "deep" / "c.txt").write_bytes(b"c")
    for secret in (root / ".env", root / ".hidden" / "key", root / "sub" / ".b", tmp_path / "outside"):
        secret.write_bytes(SECRET)
    (tmp_path / "share-2").mkdir()
    (tmp_path / "share-2" / "d.txt").write_bytes(SECRET)
    os.mkfifo(root / "fifo")
    return root
