"""What ``etc/`` offers works: the .tac files, the systemd units and the sample configurations, started for real."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import socket
import sys
from pathlib import Path

import pytest

from rtunnel.options.plugins import rtunnel_client, rtunnel_server
from rtunnel.options.plugins.common import PluginOptions
from rtunnel.options.settings.declaration import Setting
from rtunnel.pki import operations
from rtunnel.pki.store import Store
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistds, twistd_program

pytestmark = pytest.mark.cold

ROOT = Path(__file__).parent.parent.parent
ETC = ROOT / "etc"
PACKAGED = ROOT / "rtunnel" / "etc"
LOOPBACK = "tcp:0:interface=127.0.0.1"
LISTENS = r"control port listening on (?P<host>\S+):(?P<port>\d+)"

ACTIVATE = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
inherited = int(sys.argv[1])
if inherited != 3:
    os.dup2(inherited, 3)
os.set_inheritable(3, True)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What systemd does before it runs a service with a socket: the socket becomes descriptor 3, for this process."""


def read_unit(path: Path) -> configparser.ConfigParser:
    """A unit file; where a key comes more than once, the last counts."""
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text())
    return unit


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings from the environment of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("RTUNNEL_"):
            monkeypatch.delenv(name)


class TestTac:
    """``twistd -ny``, as for any Twisted application."""

    def start(self, twistd: Twistds, name: str, **env: str) -> Process:
        return twistd(twistd_options=("--pidfile=", "-ny", str(ETC / name)), env=env)

    def test_server_from_the_environment(self, twistd: Twistds) -> None:
        process = self.start(twistd, "rtunnel-server.tac", RTUNNEL_CONTROL_LISTEN=LOOPBACK)
        port = int(process.wait_for(LISTENS)["port"])
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
        assert process.terminate() == 0

    def test_server_from_a_file(self, twistd: Twistds) -> None:
        config = twistd.directory / "server.yaml"
        config.write_text(f"control_listen: {LOOPBACK}\n")
        process = self.start(twistd, "rtunnel-server.tac", RTUNNEL_CONFIG=str(config))
        process.wait_for(LISTENS)
        assert process.terminate() == 0

    def test_client_that_finds_no_server(self, twistd: Twistds) -> None:
        port = free_port()
        process = self.start(
            twistd, "rtunnel-client.tac", RTUNNEL_SERVER=f"127.0.0.1:{port}", RTUNNEL_LOCAL="127.0.0.1:9"
        )
        process.wait_for(rf"127\.0\.0\.1:{port}\b")
        assert process.running
        assert process.terminate() == 0

    def test_wrong_setting_is_one_line(self, twistd: Twistds) -> None:
        process = self.start(twistd, "rtunnel-server.tac", RTUNNEL_ALLOW_PORTS="many")
        assert process.wait() == 1
        assert "Traceback" not in process.output
        assert re.search(r"^rtunnel-server: environment variable RTUNNEL_ALLOW_PORTS: ", process.output, re.MULTILINE)

    def test_client_and_server(self, twistd: Twistds) -> None:
        public = free_port()
        ends = self.start(
            twistd,
            "rtunnel-server.tac",
            RTUNNEL_CONTROL_LISTEN=LOOPBACK,
            RTUNNEL_PUBLIC_INTERFACE="127.0.0.1",
        )
        control = ends.wait_for(LISTENS)["port"]
        process = self.start(
            twistd,
            "rtunnel-client.tac",
            RTUNNEL_SERVER=f"127.0.0.1:{control}",
            RTUNNEL_TUNNEL=f"{public}:127.0.0.1:9",
        )
        process.wait_for(rf":{public} is published; the service at 127\.0\.0\.1:9 ")
        assert process.terminate() == 0
        assert ends.terminate() == 0


class TestSocketActivation:
    """The command of the unit, with the environment of its drop-in, and a socket as systemd passes it."""

    def test_server_takes_the_socket(self, twistd: Twistds) -> None:
        unit = read_unit(PACKAGED / "systemd" / "rtunnel-server.service")
        drop_in = read_unit(PACKAGED / "systemd" / "rtunnel-server.service.d" / "socket-activation.conf")
        config = twistd.directory / "server.yaml"
        # The port of the file must not be used.
        config.write_text("control_listen: 127.0.0.1:1\n")
        command = shlex.split(unit["Service"]["ExecStart"].replace("/etc/rtunnel/server.yaml", str(config)))
        command[0] = twistd_program()
        setting, _, value = drop_in["Service"]["Environment"].partition("=")
        env = {setting: value, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "rtunnel-server.socket"}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            number = listener.fileno()
            argv = [sys.executable, "-c", ACTIVATE, str(number), *command]
            process = twistd.program(*argv, env=env, pass_fds=(number,))
            port = int(process.wait_for(LISTENS)["port"])
            assert port == listener.getsockname()[1]
        # Now only the server holds the socket: who connects is served by it, or refused.
        public = free_port()
        visitor = twistd("rtunnel-client", "--server", f"127.0.0.1:{port}", "--tunnel", f"{public}:127.0.0.1:9")
        visitor.wait_for(rf":{public} is published; the service at 127\.0\.0\.1:9 ")
        assert visitor.terminate() == 0
        assert process.terminate() == 0


class TestUnits:
    """That systemd can read what ``rtunnel service install`` writes is seen in tests/options/test_service.py."""

    @pytest.mark.parametrize("name", ["rtunnel-server", "rtunnel-client"])
    def test_service_is_confined(self, name: str) -> None:
        service = read_unit(PACKAGED / "systemd" / f"{name}.service")["Service"]
        assert service["User"] == "rtunnel"
        assert service["NoNewPrivileges"] == "yes"
        assert service["ProtectSystem"] == "strict"
        assert service["CapabilityBoundingSet"] == ""
        assert service["Restart"] == "on-failure"

    def test_user_is_declared(self) -> None:
        lines = (PACKAGED / "sysusers.d" / "rtunnel.conf").read_text().splitlines()
        assert [shlex.split(line)[:2] for line in lines if not line.startswith("#")] == [["u", "rtunnel"]]

    @pytest.mark.parametrize(
        ("name", "options"), [("rtunnel-server", rtunnel_server.Options), ("rtunnel-client", rtunnel_client.Options)]
    )
    def test_systemd_has_longer_than_the_drain(self, name: str, options: type[PluginOptions]) -> None:
        (drain,) = [setting.default for setting in options.declared if setting.name == "drain"]
        assert isinstance(drain, float)
        assert int(read_unit(PACKAGED / "systemd" / f"{name}.service")["Service"]["TimeoutStopSec"]) > drain


class TestSamples:
    """The sample configurations load as they are, leave nothing out, and do not lie about the defaults."""

    SAMPLES = (("server.yaml", rtunnel_server.Options), ("client.yaml", rtunnel_client.Options))

    @pytest.fixture(autouse=True)
    def certificates(self, environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The files that the samples name by default, as TLS is on in them."""
        store = Store(tmp_path / "pki")
        operations.init(store, ["tunnel.example.org"])
        operations.add_client(store, "laptop")
        shutil.copy(store.clients / "laptop.crt", store.own_client.certificate)
        shutil.copy(store.clients / "laptop.key", store.own_client.key)
        monkeypatch.setenv("RTUNNEL_PKI_DIR", str(store.directory))

    @pytest.mark.parametrize(("name", "options"), SAMPLES)
    def test_loads_and_has_tls_on(self, name: str, options: type[PluginOptions]) -> None:
        sample = options()
        sample.parseOptions(["--config", str(PACKAGED / name)])
        assert sample["tls"]

    @pytest.mark.parametrize(("name", "options"), SAMPLES)
    def test_says_first_what_to_run(self, name: str, options: type[PluginOptions]) -> None:
        """Each of these commands, as it stands there, makes what TLS needs."""
        wanted = {"server.yaml": "rtunnel pki init --name", "client.yaml": "rtunnel pki import laptop.pem"}[name]
        head, _, _ = (PACKAGED / name).read_text().partition("\n\n")
        assert f"\n#     {wanted}" in head

    @pytest.mark.parametrize(("name", "options"), SAMPLES)
    def test_what_is_commented_out_is_the_default(
        self, name: str, options: type[PluginOptions], tmp_path: Path
    ) -> None:
        sample = (PACKAGED / name).read_text()
        everything = tmp_path / name
        everything.write_text(re.sub(r"^#(?=[a-z_]+:)", "", sample, flags=re.MULTILINE))
        as_is, spelt_out = options(), options()
        as_is.parseOptions(["--config", str(PACKAGED / name)])
        spelt_out.parseOptions(["--config", str(everything)])
        assert dict(spelt_out) == dict(as_is)

    @pytest.mark.parametrize(("name", "options"), SAMPLES)
    def test_names_every_setting(self, name: str, options: type[PluginOptions]) -> None:
        sample = (PACKAGED / name).read_text()
        named = set(re.findall(r"^(?:#(?:   )?)?([a-z_]+):", sample, re.MULTILINE))
        named |= {f"tls.{key}" for key in re.findall(r"^#?  (?:# )?([a-z_]+):", sample, re.MULTILINE)}
        named.discard("tls")
        declared: list[Setting] = list(options.declared)
        assert named == {setting.key for setting in declared}
