"""What Linux says of a process."""

from __future__ import annotations

import os
from pathlib import Path


def rss_bytes(pid: int) -> int:
    """The resident memory of a process (Linux)."""
    return _status(pid, "VmRSS:")


def anonymous_bytes(pid: int) -> int:
    """The same without pages of files, such as libraries, which come and go with the machine's page cache (Linux)."""
    return _status(pid, "RssAnon:")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no resident memory; did it end?")


def descriptors(pid: int) -> int:
    """How many file descriptors a process has open (Linux)."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used, in user mode and in the kernel (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
