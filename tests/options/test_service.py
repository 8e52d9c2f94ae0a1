"""``rtunnel service``: what it writes below ``--root``, and that systemd can read it."""

from __future__ import annotations

import configparser
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rtunnel.options import service
from rtunnel.options.command import main
from rtunnel.options.plugins import rtc_signal
from rtunnel.pki import operations
from rtunnel.pki.store import Store
from tests.patience import PATIENCE
from tests.process.harness import need, twistd_program

Install = Callable[..., str]
UNITS = {
    "server": "rtunnel-server.service",
    "client": "rtunnel-client.service",
    "signal": "rtc-signal.service",
    "host": "rtc-host.service",
    "connect": "rtc-client.service",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that stands for a machine, where a user ``me`` calls."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("SUDO_USER", raising=False)
    made = tmp_path / "machine"
    (made / "etc").mkdir(parents=True)
    return made


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def run(root: Path, capsys: pytest.CaptureFixture[str]) -> Install:
    """``rtunnel service ...``, without root's means where this is not root; what it prints."""
    if os.geteuid() == 0:
        need("systemd-sysusers")

    def call(*words: str) -> str:
        code = main(["service", *words, "--root", str(root)])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    return call


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def user(root: Path) -> int:
    """The group of the service; where this is not root, files stay with the caller."""
    if os.geteuid() != 0:
        return os.getegid()
    lines = (root / "etc/group").read_text().splitlines()
    return next(int(line.split(":")[2]) for line in lines if line.startswith("rtunnel:"))


@pytest.mark.process
@pytest.mark.parametrize("name", UNITS)
def test_systemd_can_read_it(name: str, root: Path, run: Install) -> None:
    out = run("install", name, *(["--socket"] if name == "server" else []))
    unit = root / "etc/systemd/system" / UNITS[name]
    parsed = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(unit.read_text())
    command, *words = shlex.split(parsed["Service"]["ExecStart"])
    assert command == twistd_program()
    # The settings that the unit names are there.
    config = root / words[words.index("--config") + 1].removeprefix("/")
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert config.stat().st_gid == user(root)
    assert out.rstrip().endswith(UNITS[name])
    for path in unit.parent.glob("*.*t"):
        done = subprocess.run(
            [need("systemd-analyze"), "verify", "--man=no", str(path)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = subprocess.run(
        [need("systemd-analyze"), "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.process
def test_settings_that_exist_are_kept(root: Path, run: Install) -> None:
    run("install", "server")
    config = root / "etc/rtunnel/server.yaml"
    config.write_text("allow_ports: 8080\n")
    before = tree(root)
    assert f"kept     {config}" in run("install", "server")
    assert tree(root) == before


@pytest.mark.process
def test_server_without_certificates_is_told_to_make_them(run: Install) -> None:
    out = run("install", "server")
    assert f"{Path(sys.prefix)}/bin/rtunnel pki init --name tunnel.example.org --group rtunnel" in out
    assert out.index("pki init") < out.index("systemctl enable --now rtunnel-server.service")


@pytest.mark.process
def test_signaling_server_with_settings_that_have_no_token(run: Install) -> None:
    """Those that were written for the host, say."""
    run("install", "host")
    assert "it has no server.auth.valid_tokens, so everybody may use the signaling server" in run("install", "signal")


@pytest.mark.process
def test_signaling_server_is_not_open(root: Path, run: Install) -> None:
    """Its sample of settings has a token, another one each time."""
    tokens = set()
    for _ in range(2):
        assert "hosts and clients need the token that is in it" in run("install", "signal")
        config = root / "etc/rtunnel/rtc.yaml"
        options = rtc_signal.Options()
        options.parseOptions(["--config", str(config)])
        (token,) = options.settings.valid_tokens
        assert len(token) == 32
        tokens.add(token)
        config.unlink()
    assert len(tokens) == 2


@pytest.mark.process
def test_settings_without_a_token_are_no_secret_of_the_signaling_server(root: Path, run: Install) -> None:
    """All ends of the WebRTC tunnel share a file, and that of a host has no tokens."""
    run("install", "host")
    out = run("install", "signal")
    assert "it has no server.auth.valid_tokens, so everybody may use the signaling server" in out


@pytest.mark.process
@pytest.mark.usefixtures("umask")
def test_only_the_service_can_read_the_settings(root: Path, run: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    write = Path.write_text

    def write_text(path: Path, text: str) -> int:
        done = write(path, text)
        if path.name == "rtc.yaml":
            seen.append(stat.S_IMODE(path.stat().st_mode))
        return done

    monkeypatch.setattr(Path, "write_text", write_text)
    run("install", "signal")
    assert seen == [0o640]
    directories = [path for path in root.rglob("*") if path.is_dir() and path != root / "etc"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o755}


@pytest.mark.process
def test_programs_need_not_be_beside_the_interpreter(root: Path, run: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of Debian installs those of pip in /usr/local/bin."""
    monkeypatch.setattr("sysconfig.get_path", {"scripts": "/usr/local/bin"}.__getitem__)
    assert "/usr/local/bin/rtunnel pki init" in run("install", "server")
    unit = (root / "etc/systemd/system/rtunnel-server.service").read_text()
    assert "\nExecStart=/usr/local/bin/twistd -n " in unit
    assert "\nExecReload=/usr/local/bin/rtunnel reload $MAINPID\n" in unit


@pytest.mark.process
class TestCertificates:
    """There is one CA before and after, and the service can read what it needs and nothing else."""

    def make(self, directory: Path) -> dict[str, bytes]:
        operations.init(Store(directory), ["tunnel.example.org"])
        operations.add_client(Store(directory), "laptop")
        return tree(directory)

    def check(self, pki: Path, root: Path, before: dict[str, bytes]) -> None:
        assert tree(pki) == before
        assert stat.S_IMODE(pki.stat().st_mode) == 0o750
        key = pki / "server.key"
        assert (stat.S_IMODE(key.stat().st_mode), key.stat().st_gid) == (0o640, user(root))
        assert stat.S_IMODE((pki / "ca.key").stat().st_mode) == 0o600

    def test_of_the_user_move(self, root: Path, run: Install) -> None:
        own = root / "home/me/.config/rtunnel/pki"
        before = self.make(own)
        out = run("install", "server")
        assert not own.exists()
        self.check(root / "etc/rtunnel/pki", root, before)
        assert "pki init" not in out

    @pytest.mark.parametrize("name", ["server.key", "."])
    def test_links_of_the_user_lead_nowhere(self, name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Root would change who may read any file of the system."""
        own = root / "home/me/.config/rtunnel/pki"
        self.make(own)
        victim = root / "victim"
        (own / name).rename(victim)
        (own / name).symlink_to(victim)
        victim.chmod(0o700)
        assert main(["service", "install", "server", "--root", str(root)]) == 1
        assert "is a link; " in capsys.readouterr().err
        assert (stat.S_IMODE(victim.stat().st_mode), victim.stat().st_gid) == (0o700, os.getegid())

    def test_of_the_machine_stay(self, root: Path, run: Install) -> None:
        own = root / "home/me/.config/rtunnel/pki"
        theirs = self.make(own)
        before = self.make(root / "etc/rtunnel/pki")
        out = run("install", "server")
        assert tree(own) == theirs
        self.check(root / "etc/rtunnel/pki", root, before)
        assert "pki init" not in out


@pytest.mark.process
def test_uninstall_leaves_settings_and_certificates(root: Path, run: Install) -> None:
    operations.init(Store(root / "etc/rtunnel/pki"), ["tunnel.example.org"])
    run("install", "server", "--socket")
    before = tree(root)
    out = run("uninstall", "server")
    gone = set(before) - set(tree(root))
    system = "etc/systemd/system/rtunnel-server"
    assert gone == {f"{system}.service", f"{system}.socket", f"{system}.service.d/socket-activation.conf"}
    assert not (root / f"{system}.service.d").exists()
    assert f"kept     {root}/etc/rtunnel" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "rtunnel service: name a command: install, uninstall; see --help"),
        ("install", "rtunnel service install: name a service: server, client, signal, host, connect"),
        (
            "install x",
            "rtunnel service install: 'x' is not a service; name one of server, client, signal, host, connect",
        ),
        ("install servr", "rtunnel service install: 'servr' is not a service; did you mean 'server'?"),
        ("install server client", "rtunnel service install: one service at a time; remove 'client'"),
        ("install host --socket --root x", "rtunnel service install: --socket is for 'server' only"),
        ("uninstall host --root x", "rtunnel service uninstall: "),
    ],
)
def test_mistakes_are_one_line(
    arguments: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["service", *arguments.split()]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(complaint)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


class TestRunningSystem:
    """Nothing here reaches it: the checks come before anything is written."""

    def test_needs_root(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert main(["service", "install", "server"]) == 1
        assert "needs root; write sudo before it" in capsys.readouterr().err

    def test_not_from_a_home_directory(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(sys, "prefix", "/home/me/.rtunnel")
        assert main(["service", "install", "server"]) == 1
        assert "python3 -m venv /opt/rtunnel && /opt/rtunnel/bin/pip install ." in capsys.readouterr().err

    @pytest.mark.process
    def test_without_systemd(self) -> None:
        with pytest.raises(service.ServiceError, match="there is no not-there here"):
            service._call("not-there")
        with pytest.raises(service.ServiceError, match="false failed: exit code 1"):
            service._call("false")
        with pytest.raises(service.ServiceError, match=r"failed: not booted by systemd$"):
            service._call("sh", "-c", "printf 'not booted\n  by systemd\n' >&2; exit 1")
