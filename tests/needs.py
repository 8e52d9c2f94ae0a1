"""What a test needs of the machine; where that is missing, the test is skipped with the reason."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import pytest

ENOUGH = 65_536
"""Descriptors that the suite asks for; more would only make it slow to close all of them."""


def take_descriptors() -> None:
    """Allow this process as many descriptors as the system lets it have; shells often start with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def need_descriptors(count: int) -> None:
    """Skip the test where this process may not have so many descriptors at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        pytest.skip(f"{count} file descriptors are needed, and {soft} allowed")


def has_ipv6() -> bool:
    """Whether this machine has the address ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


def need_root() -> None:
    """Skip a test that makes files of other users."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")


def _liboqs() -> str:
    """Return where a native liboqs is installed: as the environment says, or where ``.ci/liboqs`` puts it."""
    if given := os.environ.get("OQS_INSTALL_PATH"):
        return given
    built = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rtunnel", "liboqs-0.13.0")
    return str(built) if (built / "lib" / "liboqs.so").exists() else ""


LIBOQS = _liboqs()
"""Where a native liboqs is installed; empty: there is none."""


NO_LIBOQS = "there is no liboqs here; .ci/liboqs builds one"

needs_liboqs = [pytest.mark.liboqs, pytest.mark.skipif(not LIBOQS, reason=NO_LIBOQS)]
"""Marks of the tests of a module, if they need a real liboqs."""
