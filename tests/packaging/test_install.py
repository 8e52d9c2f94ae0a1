"""The package works once installed, from a wheel and in editable form, each in a fresh virtual environment.

Plugins are the fragile part: ``twisted.plugins`` is a folder that several distributions share, and a plugin that is
left out of the wheel, or cannot be imported, only vanishes from twistd's help.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, made_once, run
from tests.process.harness import Process

pytestmark = pytest.mark.packaging

PLUGINS = ["rtunnel-server", "rtunnel-client", "rtc-signal", "rtc-host", "rtc-client"]


@pytest.fixture(
    scope="session",
    params=["wheel", "editable"],
)
def venv(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the package in it and nothing of the tests; its ``bin``."""
    wanted: Path = request.getfixturevalue("wheel" if request.param == "wheel" else "source")
    editable = ["--editable"] if request.param == "editable" else []

    def install(directory: Path) -> None:
        run([sys.executable, "-m", "venv", directory / "venv"], cwd=directory)
        python = directory / "venv" / "bin" / "python"
        run([python, "-m", "pip", "--disable-pip-version-check", "install", *editable, wanted], cwd=directory)

    return made_once(tmp_path_factory, request.param, install) / "venv" / "bin"


def test_wheel_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "twisted/plugins/rtunnel_plugins.py" in names
    assert {"rtunnel/py.typed", "rtunnel/control/page/status.html"} <= names
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "rtunnel" / "etc").rglob("*") if path.is_file()}
    assert files == {name for name in names if name.startswith("rtunnel/etc/")}
    assert not {name for name in names if name.startswith("twisted/") and not name.endswith("/rtunnel_plugins.py")}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "rtunnel").rglob("*.py")}
    assert modules == {name for name in names if name.startswith("rtunnel/") and name.endswith(".py")}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"rtunnel", "twisted"}
    pages = {path.name for path in (ROOT / "docs" / "man").iterdir()}
    assert pages == {name.rpartition("/")[2] for name in names if "/data/share/man/man1/" in name}


def test_version(venv: Path, tmp_path: Path) -> None:
    code = "import rtunnel, importlib.metadata as m; print(rtunnel.__version__, m.version('rtunnel'))"
    ours, metadata = run([venv / "python", "-c", code], cwd=tmp_path).split()
    assert ours == metadata
    assert re.match(r"[1-9]\d\.\d+\.\d+", ours)


def test_plugins_are_listed(venv: Path, tmp_path: Path) -> None:
    listed = run([venv / "twistd", "--help"], cwd=tmp_path)
    for plugin in PLUGINS:
        assert re.search(rf"^ +{plugin} ", listed, re.MULTILINE), listed


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugins_have_help(plugin: str, venv: Path, tmp_path: Path) -> None:
    assert "--config" in run([venv / "twistd", plugin, "--help"], cwd=tmp_path)


def test_the_command(venv: Path, tmp_path: Path) -> None:
    assert run([venv / "rtunnel", "--version"], cwd=tmp_path).startswith("rtunnel ")
    run([venv / "rtunnel", "pki", "init", "--name", "localhost", "--dir", "pki"], cwd=tmp_path)
    assert "localhost" in run([venv / "rtunnel", "pki", "show", "--dir", "pki"], cwd=tmp_path)


@pytest.mark.parametrize("name", ["server", "client", "signal", "host", "connect"])
def test_services_can_be_installed(name: str, venv: Path, tmp_path: Path) -> None:
    """Units and samples are in the package."""
    (tmp_path / "image" / "etc").mkdir(parents=True)
    said = run([venv / "rtunnel", "service", "install", name, "--root", "image"], cwd=tmp_path)
    assert "systemctl enable --now" in said


def test_the_command_runs_the_plugins(venv: Path, tmp_path: Path) -> None:
    with Process(
        [str(venv / "rtunnel"), "server", "--control-listen=tcp:0:interface=127.0.0.1"], cwd=tmp_path
    ) as server:
        server.wait_for(r"control port listening on 127\.0\.0\.1:[1-9]")
        assert server.terminate() == 0


def test_server_starts_and_stops(venv: Path, tmp_path: Path) -> None:
    argv = [str(venv / "twistd"), "-n", "--pidfile=", "rtunnel-server"]
    with Process([*argv, "--control-listen", "tcp:0:interface=127.0.0.1"], cwd=tmp_path) as server:
        server.wait_for(r"control port listening on 127\.0\.0\.1:[1-9]")
        assert server.terminate() == 0


def test_client_starts_and_stops(venv: Path, tmp_path: Path) -> None:
    argv = [str(venv / "twistd"), "-n", "--pidfile=", "rtunnel-client"]
    with Process([*argv, "--server", "127.0.0.1:1", "--local", "127.0.0.1:1"], cwd=tmp_path) as client:
        client.wait_for(r"127\.0\.0\.1:1\b")
        assert client.terminate() == 0
