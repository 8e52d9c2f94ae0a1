"""Bandwidth and quota with real processes: what passes is whole, and what is used outlives the server."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, need, poll
from tests.process.services import LOOPBACK, curl, expected
from tests.process.web_services import APP, LoggingNginx

SIZE = 20_000_000


class Ends:
    """A server that keeps its state in a directory, and a client with one tunnel for ``http:`` and one for TCP."""

    def __init__(self, twistd: Twistds, directory: Path, local: str, rules: str, plane: str = "auto") -> None:
        self.twistd = twistd
        self.state = directory / "state"
        self.control, self.port, self.http = free_port(), free_port(), free_port()
        self.plane = plane
        self.start_server()
        config = directory / "client.yaml"
        config.write_text(
            f"server: {LOOPBACK}:{self.control}\ndata_plane: {plane}\nreconnect_min: 0.05\nreconnect_max: 0.2\n"
            "tunnels:\n"
            f"- {{publish: http:{APP}={local}, {rules}}}\n- {{publish: tcp:{self.port}={local}, {rules}}}\n"
        )
        self.client = twistd("rtunnel-client", "--config", str(config))
        self.client.wait_for("127.0.0.1:[0-9]+ is published")

    def start_server(self) -> None:
        self.server = self.twistd(
            "rtunnel-server",
            f"--control-listen=tcp:{self.control}:interface={LOOPBACK}",
            f"--http-listen=tcp:{self.http}:interface={LOOPBACK}",
            f"--public-interface={LOOPBACK}",
            f"--data-plane={self.plane}",
            f"--state-dir={self.state}",
        )
        self.server.wait_for("control port listening")

    def get(self, path: str, *more: str) -> bytes:
        return curl(f"http://{APP}:{self.http}{path}", "--resolve", f"{APP}:{self.http}:{LOOPBACK}", *more)


@pytest.mark.parametrize("plane", ["mux", "direct"])
def test_what_is_slowed_down_is_whole(twistd: Twistds, tmp_path: Path, plane: str) -> None:
    nginx = LoggingNginx(twistd, tmp_path / "app")
    nginx.put("large", SIZE, 7)
    ends = Ends(twistd, tmp_path, nginx.address, "bandwidth: 200Mbit, visitor-bandwidth: 150Mbit", plane)
    for number, url in enumerate((f"http://{LOOPBACK}:{ends.port}", f"http://{APP}:{ends.http}")):
        got = tmp_path / f"got{number}"
        curl(f"{url}/files/large", "--resolve", f"{APP}:{ends.http}:{LOOPBACK}", "-o", str(got))
        assert subprocess.check_output([need("sha256sum"), str(got)]).split()[0].decode() == expected(SIZE, 7)[1]
    for end in (ends.client, ends.server):
        assert end.terminate() == 0
        assert "Traceback" not in end.output
    assert not ends.state.exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_forgets_nothing(twistd: Twistds, tmp_path: Path, how: signal.Signals) -> None:
    nginx = LoggingNginx(twistd, tmp_path / "app")
    nginx.put("large", 850_000, 7)
    ends = Ends(twistd, tmp_path, nginx.address, "quota: 1MB")
    assert len(ends.get("/files/large")) == 850_000
    ends.client.wait_for(f"http://{APP}.*: the server says: 8[0-9] % .* of the quota of 1 MB of this month is used; ")
    if how == signal.SIGKILL:
        # More than 1 % of a quota is written within a second or so.
        poll((ends.state / "quotas.json").exists, PATIENCE, "the file")
        ends.server.kill()
    else:
        assert ends.server.terminate() == 0
    [entry] = json.loads((ends.state / "quotas.json").read_text())["used"]
    assert entry["place"] == f"http://{APP}"
    assert 850_000 < entry["bytes"] < 860_000
    already = len(ends.client.output)
    ends.start_server()
    ends.client.wait_for("127.0.0.1:[0-9]+ is published", after=already)
    with suppress(AssertionError):  # it may be cut, or just pass
        ends.get("/files/large")
    ends.server.wait_for(f"http://{APP} of the client '127.0.0.1': all of the quota of 1 MB of this month is used; ")
    page = ends.get("/", "--no-fail", "-i").decode()
    assert page.startswith("HTTP/1.1 503 ")
    assert "Retry-After: " in page
    assert "is used up; it is back on " in page
    # The other tunnel has a quota of its own.
    assert curl(f"http://{LOOPBACK}:{ends.port}/")
