"""A process imports what it uses: that is most of its memory, and of the time that it takes to start."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.harness import Process, Twistds, clean_environment, twistd_program
from tests.process.rtc import RtcTunnel
from tests.process.services import Service, fetch, page

pytestmark = pytest.mark.cold

UNUSED = {"yaml", "acme", "josepy", "requests", "rich", "prometheus_client"}
"""What no process needs as long as it is not told to do what takes it."""
OF_REVERSE = {"httptools", "rtunnel.reverse.server", "rtunnel.reverse.client"}
OF_AUTOBAHN = {"autobahn", "txaio", "click", "cffi.cparser", "pycparser"}
#: What is left out of aiortc appears with its own name, though it is a stand-in.
OF_AIORTC = {"aiortc", "ifaddr", "decimal", "aioice", "av", "pylibsrtp", "dns"}
NOWHERE = "127.0.0.1:1"

IMPORTED = re.compile(r"import time: +\d+ \| +\d+ \| +(\S+)")


def imported(process: Process) -> set[str]:
    """The modules that a process has imported so far, and the packages that they are in."""
    names = IMPORTED.findall(process.output)
    assert names
    return {".".join(parts[:count]) for parts in (name.split(".") for name in names) for count in (1, 2, len(parts))}


@pytest.fixture
def tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process tells on standard error what it imports."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")


@pytest.mark.usefixtures("tells")
@pytest.mark.parametrize(
    ("arguments", "ready", "unused"),
    [
        (["rtunnel-server", "--control-listen=127.0.0.1:0"], "control port listening", OF_AUTOBAHN | OF_AIORTC),
        (["rtunnel-client", f"--server={NOWHERE}", "--tunnel=1:80"], "cannot reach", OF_AUTOBAHN | OF_AIORTC),
        (
            ["rtc-signal", "--addr=127.0.0.1:0"],
            "signaling port listening",
            OF_REVERSE | OF_AIORTC - {"rtunnel.rtc", "decimal"},
        ),
        (
            ["rtc-host", f"--signal=ws://{NOWHERE}", "--id=x", "--remote=:80"],
            "cannot reach",
            OF_REVERSE | {"rtunnel.reverse"},
        ),
        (
            ["rtc-client", f"--signal=ws://{NOWHERE}", "--id=x", "--local=127.0.0.1:0"],
            "cannot reach",
            OF_REVERSE | {"rtunnel.reverse"},
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_plugins(arguments: list[str], ready: str, unused: set[str], twistd: Twistds) -> None:
    process = twistd(*arguments)
    process.wait_for(ready)
    assert sorted(imported(process) & (UNUSED | unused)) == []


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["--version"], []], ids=" ".join)
def test_help_needs_little(arguments: list[str], tmp_path: Path) -> None:
    environment = clean_environment({"PYTHONPROFILEIMPORTTIME": "1"})
    with Process([twistd_program("rtunnel"), *arguments], cwd=tmp_path, env=environment) as process:
        assert process.wait() == 0
        unused = UNUSED | OF_AUTOBAHN | OF_AIORTC | OF_REVERSE | {"twisted.internet.reactor", "cryptography"}
        assert sorted(imported(process) & unused) == []


def test_streams_without_codecs(serve: Callable[..., Service], start_rtc: Callable[..., RtcTunnel]) -> None:
    """aiortc would load 20 libraries of codecs, and one for keys of media."""
    tunnel = start_rtc(serve(GET=page("through")).address)
    assert fetch(tunnel.local) == "through"
    for process in (tunnel.host, tunnel.client):
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert not re.search(r"/av/|/av\.libs/|libav|srtp", maps)
