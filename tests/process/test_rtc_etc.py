"""What ``etc/`` offers for the WebRTC tunnel works: the .tac files, the systemd units and the sample configuration."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from rtunnel.config_file import read_config_file
from rtunnel.options.plugins import rtc_client, rtc_host, rtc_signal
from rtunnel.options.plugins.common import PluginOptions
from rtunnel.options.settings.rtc import ALL
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistds, wait_until_open
from tests.process.services import Service, expected, get, read_all
from tests.process.test_etc import ETC, LOOPBACK, PACKAGED, read_unit
from tests.tls.parts import Authority

pytestmark = pytest.mark.cold

LISTENS = r"signaling port listening on (?P<host>\S+):(?P<port>\d+)"
REGISTERED = r"connected to signaling server "


PLUGINS: list[type[PluginOptions]] = [rtc_signal.Options, rtc_host.Options, rtc_client.Options]
NAMES = ["rtc-signal", "rtc-host", "rtc-client"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki", kind="RSA")


def start(twistd: Twistds, name: str, **env: str) -> Process:
    return twistd(twistd_options=("--pidfile=", "-ny", str(ETC / f"{name}.tac")), env=env)


def start_signal(twistd: Twistds) -> tuple[Process, str]:
    """A signaling server, and its URL."""
    process = start(twistd, "rtc-signal", RTUNNEL_ADDR=LOOPBACK)
    return process, f"ws://127.0.0.1:{process.wait_for(LISTENS)['port']}"


class TestTac:
    """``twistd -ny``, without a word of the reactor."""

    def test_signal(self, twistd: Twistds) -> None:
        process, _ = start_signal(twistd)
        assert process.terminate() == 0

    def test_config_yaml_of_the_current_directory(self, twistd: Twistds) -> None:
        (twistd.directory / "config.yaml").write_text(f"server: {{addr: '{LOOPBACK}'}}\n")
        process = start(twistd, "rtc-signal")
        process.wait_for(r"settings from the file config\.yaml$")
        process.wait_for(LISTENS)
        assert process.terminate() == 0

    @pytest.mark.parametrize("name", NAMES)
    def test_wrong_setting_is_one_line(self, twistd: Twistds, name: str) -> None:
        process = start(twistd, name, RTUNNEL_LOG_LEVEL="loud", RTUNNEL_ID="x")
        assert process.wait() == 1
        assert "Traceback" not in process.output
        assert re.search(rf"^{name}: environment variable RTUNNEL_LOG_LEVEL: ", process.output, re.MULTILINE)

    @pytest.mark.parametrize("name", ["rtc-host", "rtc-client"])
    def test_one_that_finds_no_server(self, twistd: Twistds, name: str) -> None:
        port = free_port()
        process = start(
            twistd,
            name,
            RTUNNEL_SIGNAL=f"ws://127.0.0.1:{port}",
            RTUNNEL_ID="x",
            RTUNNEL_STUN_SERVER="",
            RTUNNEL_LOCAL=LOOPBACK,
        )
        process.wait_for(rf"127\.0\.0\.1:{port}\b.*next attempt in")
        assert process.running
        assert process.terminate() == 0
        assert "Traceback" not in process.output

    def test_all_three(self, twistd: Twistds, serve: Callable[..., Service]) -> None:
        signal, url = start_signal(twistd)
        host = start(twistd, "rtc-host", WTT_HOST_REMOTE=serve(get=get).address, **reference_variables(url))
        host.wait_for(REGISTERED)
        port = free_port()
        client = start(twistd, "rtc-client", WTT_CLIENT_LOCAL=f"127.0.0.1:{port}", **reference_variables(url))
        check_forward(port)
        for process in (client, host, signal):
            assert process.terminate() == 0
            assert "Traceback" not in process.output


def reference_variables(url: str) -> dict[str, str]:
    """What both ends need, as the manual of the replaced program names it."""
    return {
        "WTT_SIGNAL": url,
        "WTT_STUN_SERVER": "",
        "WTT_HOST_ID": "myhost",
        "WTT_CLIENT_ID": "myhost",
        "RTUNNEL_ICE_INTERFACE": "127.0.0.1",
    }


def check_forward(port: int) -> None:
    """Who connects to the port gets what the service sends."""
    wait_until_open(port)
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as visitor:
        visitor.sendall(b"get 100000 7\n")
        assert read_all(visitor) == expected(100_000, 7)


class TestDaemons:
    """``twistd rtc-host``: forked twice after the reactor was chosen, and it works."""

    def test_all_three(self, twistd: Twistds, serve: Callable[..., Service]) -> None:
        signal = twistd.daemon("rtc-signal", "--addr", LOOPBACK)
        env = reference_variables(f"ws://127.0.0.1:{signal.wait_for(LISTENS)['port']}")
        host = twistd.daemon("rtc-host", "--remote", serve(get=get).address, env=env)
        host.wait_for(REGISTERED)
        port = free_port()
        client = twistd.daemon("rtc-client", "--local", f"127.0.0.1:{port}", env=env)
        check_forward(port)
        for process in (client, host, signal):
            process.terminate()
            assert "Traceback" not in process.output


class TestUnits:
    """That systemd can read them is seen in test_etc.py."""

    @pytest.mark.parametrize("name", NAMES)
    def test_service_is_confined(self, name: str) -> None:
        service = read_unit(PACKAGED / "systemd" / f"{name}.service")["Service"]
        assert service["User"] == "rtunnel"
        assert service["NoNewPrivileges"] == "yes"
        assert service["ProtectSystem"] == "strict"
        assert service["CapabilityBoundingSet"] == ""
        assert service["Restart"] == "on-failure"
        assert ("AF_NETLINK" in service["RestrictAddressFamilies"]) == (name != "rtc-signal")
        assert f" {name} --config /etc/rtunnel/rtc.yaml" in service["ExecStart"]

    @pytest.mark.parametrize("name", ["rtunnel-server", "rtunnel-client", *NAMES])
    def test_memory_may_be_written_and_executed(self, name: str) -> None:
        """pyOpenSSL needs it for callbacks; without it the process ends with a MemoryError."""
        assert "MemoryDenyWriteExecute" not in read_unit(PACKAGED / "systemd" / f"{name}.service")["Service"]

    @pytest.mark.parametrize("name", ["rtc-host", "rtc-client"])
    def test_systemd_has_longer_than_the_drain(self, name: str) -> None:
        (drain,) = {setting.default for setting in ALL if setting.name == "drain"}
        assert isinstance(drain, float)
        assert int(read_unit(PACKAGED / "systemd" / f"{name}.service")["Service"]["TimeoutStopSec"]) > drain


def spelt_out(tmp_path: Path) -> Path:
    """The sample with all that is commented out."""
    path = tmp_path / "rtc.yaml"
    path.write_text(re.sub(r"^#(?= *[a-z_]+:)", "", (PACKAGED / "rtc.yaml").read_text(), flags=re.MULTILINE))
    return path


class TestSample:
    """It loads as it is in all three, leaves nothing out, and does not lie about the defaults."""

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No settings from the environment of whoever runs the tests."""
        for name in list(os.environ):
            if name.startswith(("RTUNNEL_", "WTT_")):
                monkeypatch.delenv(name)

    @pytest.mark.parametrize("plugin", PLUGINS)
    def test_what_is_commented_out_is_the_default(self, plugin: type[PluginOptions], tmp_path: Path) -> None:
        as_is, everything = plugin(), plugin()
        as_is.parseOptions(["--config", str(PACKAGED / "rtc.yaml")])
        everything.parseOptions(["--config", str(spelt_out(tmp_path))])
        assert dict(everything) == dict(as_is)

    def test_names_every_setting(self, tmp_path: Path) -> None:
        def keys(values: object, prefix: str = "") -> set[str]:
            if not isinstance(values, dict):
                return {prefix.rstrip(".")}
            return {name for key, value in values.items() for name in keys(value, f"{prefix}{key}.")}

        named = keys(dict(read_config_file(str(spelt_out(tmp_path))).values))
        assert named == {setting.key for setting in ALL}
