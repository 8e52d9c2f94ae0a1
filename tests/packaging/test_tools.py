"""The wheel by pipx and by uv, and without the packages that not everybody needs (etc/requirements-*.txt)."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, made_once, run
from tests.ports import free_port
from tests.process.harness import Process
from tests.process.services import LOOPBACK, Service, fetch, page

pytestmark = pytest.mark.packaging

NO_SERVER = "127.0.0.1:1"


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv and pipx, in an environment of their own; its ``bin``."""

    def install(directory: Path) -> None:
        run([sys.executable, "-m", "venv", directory / "venv"], cwd=directory)
        python = directory / "venv" / "bin" / "python"
        run([python, "-m", "pip", "--disable-pip-version-check", "install", "uv", "pipx"], cwd=directory)

    return made_once(tmp_path_factory, "tools", install) / "venv" / "bin"


Install = Callable[..., None]


@pytest.fixture
def bare(tools: Path, tmp_path: Path) -> tuple[Path, Install]:
    """A fresh environment, by its ``bin``, and what installs into it."""
    run([tools / "uv", "venv", "--python", sys.executable, "venv"], cwd=tmp_path)
    binaries = tmp_path / "venv" / "bin"

    def install(*arguments: str | Path) -> None:
        run([tools / "uv", "pip", "install", "--python", binaries / "python", *arguments], cwd=tmp_path)

    return binaries, install


def listening(program: Path, cwd: Path) -> None:
    """Start a server, and end it."""
    with Process([str(program), "server", "--control-listen=127.0.0.1:0"], cwd=cwd) as server:
        server.wait_for(r"control port listening on 127\.0\.0\.1:[1-9]")
        assert server.terminate() == 0


def test_uv_tool_install(tools: Path, wheel: Path, tmp_path: Path) -> None:
    env = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    run([tools / "uv", "tool", "install", wheel], tmp_path, env)
    listening(tmp_path / "bin" / "rtunnel", tmp_path)


def test_pipx_install(tools: Path, wheel: Path, tmp_path: Path) -> None:
    env = {f"PIPX_{name}": str(tmp_path / name) for name in ("HOME", "BIN_DIR", "MAN_DIR")}
    run([tools / "pipx", "install", wheel], tmp_path, env)
    listening(tmp_path / "BIN_DIR" / "rtunnel", tmp_path)
    pages = {path.name for path in (tmp_path / "MAN_DIR" / "man1").iterdir()}
    assert pages == {path.name for path in (ROOT / "docs" / "man").iterdir()}


def test_without_the_webrtc_tunnel(bare: tuple[Path, Install], wheel: Path, tmp_path: Path) -> None:
    binaries, install = bare
    install("--no-deps", wheel)
    install("-r", ROOT / "etc" / "requirements-reverse.txt")
    listening(binaries / "rtunnel", tmp_path)
    with Process(
        [str(binaries / "rtunnel"), "client", f"--server={NO_SERVER}", "--tunnel=1:80"], cwd=tmp_path
    ) as client:
        client.wait_for("cannot reach")
        assert client.terminate() == 0
    how = rf"not installed here: {re.escape(str(binaries))}/python -m pip install rtunnel\n"
    for words, named in (
        (["rtunnel", "host", "--id=x"], "autobahn and aiortc and aioice"),
        (["rtunnel", "signal"], "autobahn"),
        (["twistd", "-n", "rtc-client", "--id=x"], "autobahn and aiortc and aioice"),
    ):
        argv = [str(binaries / words[0]), *words[1:]]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        said = done.stdout + done.stderr
        assert re.search(rf"^.*: WebRTC needs {named}, {how}\Z", said, re.MULTILINE), said
        assert "Traceback" not in said
    assert "rtc-host" in run([binaries / "twistd", "--help"], tmp_path)
    assert "--id" in run([binaries / "rtunnel", "host", "--help"], tmp_path)
    assert "complete" in run([binaries / "rtunnel", "completion", "bash"], tmp_path)


def test_without_codecs(bare: tuple[Path, Install], wheel: Path, tmp_path: Path) -> None:
    binaries, install = bare
    install("--no-deps", wheel, "aiortc == 1.16.*")
    install("-r", ROOT / "etc" / "requirements-webrtc.txt")
    assert not list((tmp_path / "venv").glob("lib/*/site-packages/av*"))
    rtunnel = str(binaries / "rtunnel")
    local = free_port()
    service = Service({"GET": page("without codecs")})
    with Process([rtunnel, "signal", f"--addr={LOOPBACK}:0"], cwd=tmp_path) as signal:
        port = signal.wait_for(r"signaling port listening on \S+:(\d+)")[1]
        ends = [f"--signal=ws://{LOOPBACK}:{port}", "--id=x", "--stun-server=", f"--ice-interface={LOOPBACK}"]
        with Process([rtunnel, "host", *ends, f"--remote={service.address}"], cwd=tmp_path) as host:
            host.wait_for("host 'x' offers")
            with Process([rtunnel, "connect", *ends, f"--local={LOOPBACK}:{local}"], cwd=tmp_path) as client:
                client.wait_for("connected to host 'x'")
                assert fetch(local) == "without codecs"
    service.close()
