"""What the tests of ``rtunnel pki`` share to look into a directory of certificates."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from rtunnel.pki import bundle, inventory, operations
from rtunnel.pki.store import Store

NOW = datetime.now(UTC).replace(microsecond=0)
HOSTS = ["t.example.org", "192.0.2.1"]


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def serial(store: Store, name: str) -> int:
    return store.load_certificate(name).serial_number


def crl(store: Store) -> x509.CertificateRevocationList:
    found = store.load_crl(store.load_certificate("ca"))
    assert found is not None
    return found


def arrived(store: Store, name: str) -> bundle.Bundle:
    return bundle.parse(bundle.write(operations.make_bundle(store, name)), "x.pem", NOW)


def warnings(store: Store, now: datetime | None = None) -> list[str]:
    found = inventory.take(store, now=now)
    return found.problems + [problem for entry in found.entries for problem in entry.problems]


Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


def right(done: Done) -> str:
    """Return what a successful command printed."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def wrong(done: Done) -> str:
    """Return the one line that a failed command printed."""
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.rstrip("\n")
