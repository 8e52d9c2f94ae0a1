"""A process imports what it uses: that is most of its memory, and of the time that it takes to start."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.harness import Process, Twistds, clean_environment, twistd_program
from tests.process.proc import rss_bytes
from tests.process.rtc import RtcTunnel
from tests.process.services import Service, fetch, page

pytestmark = pytest.mark.cold

UNUSED = {"yaml", "acme", "josepy", "requests", "rich", "prometheus_client", "txredisapi", "rtunnel.cluster.redis"}
"""What no process needs as long as it is not told to do what takes it."""
#: What takes 12 MiB: also Twisted's own TLS, which no tunnel needs.
OF_TLS = {"OpenSSL.crypto", "cryptography", "service_identity", "twisted.internet._sslverify", "rtunnel.tls.openssl"}
OF_REVERSE = {"httptools", "rtunnel.reverse.server", "rtunnel.reverse.client"}
OF_AUTOBAHN = {"autobahn", "txaio", "click", "cffi.cparser", "pycparser"}
#: What is left out of aiortc appears with its own name, though it is a stand-in.
OF_AIORTC = {"aiortc", "ifaddr", "decimal", "aioice", "av", "pylibsrtp", "dns"}
#: Most bytes of a process of the reverse tunnel, without TLS and before anybody comes.
AT_REST = 46 * 1024 * 1024
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
        (
            ["rtunnel-server", "--control-listen=127.0.0.1:0"],
            "control port listening",
            OF_AUTOBAHN | OF_AIORTC | OF_TLS,
        ),
        (["rtunnel-client", f"--server={NOWHERE}", "--tunnel=1:80"], "cannot reach", OF_AUTOBAHN | OF_AIORTC | OF_TLS),
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


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("arguments", "ready"),
    [
        (["server", "--control-listen=127.0.0.1:0"], "control port listening"),
        (["client", f"--server={NOWHERE}", "--tunnel=1:80"], "cannot reach"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("command", [["rtunnel"], ["twistd", "--nodaemon", "--pidfile="]], ids=lambda value: value[0])
def test_memory_at_rest(command: list[str], arguments: list[str], ready: str, tmp_path: Path) -> None:
    """Imports are nearly all of it. Pages of files count here, as ``ps`` shows them."""
    program, *options = command
    name = arguments[0] if program == "rtunnel" else f"rtunnel-{arguments[0]}"
    line = [twistd_program(program), *options, name, *arguments[1:]]
    with Process(line, cwd=tmp_path, env=clean_environment()) as process:
        process.wait_for(ready)
        assert rss_bytes(process.pid) < AT_REST


@pytest.mark.parametrize("kind", ["tls:127.0.0.1:1", "TLS:127.0.0.1:1"])
def test_endpoints_of_plugins_have_tls(kind: str, twistd: Twistds) -> None:
    """What is left out where nothing needs it is there where an address does."""
    process = twistd("rtunnel-client", f"--server={kind}", "--tunnel=1:80")
    process.wait_for("cannot reach")
    assert "Traceback" not in process.output


def test_programs_of_others_have_tls(tmp_path: Path) -> None:
    """Who makes the service in a program of his own may want Twisted's TLS for something else."""
    program = (
        "from rtunnel.options.plugins.rtunnel_client import Options, makeService\n"
        "options = Options()\n"
        f"options.parseOptions(['--server={NOWHERE}', '--tunnel=1:80'])\n"
        "makeService(options)\n"
        "from twisted.internet.endpoints import TLSMemoryBIOFactory\n"
        "print(TLSMemoryBIOFactory.__name__)\n"
    )
    with Process([sys.executable, "-c", program], cwd=tmp_path, env=clean_environment()) as process:
        process.wait_for("TLSMemoryBIOFactory")
        assert process.wait() == 0


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
