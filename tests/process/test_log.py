"""What an operator, or the program that reads the logs for one, is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistds, wait_until_open
from tests.process.services import LOOPBACK, Service, Tunnel, fetch, page, wait_for_page

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]

LEVELS = {"debug", "info", "warn", "error", "critical"}


def lines(process: Process) -> list[dict[str, Any]]:
    """Everything that it has said, each line of which is JSON."""
    found = [json.loads(line) for line in process.output.splitlines()]
    assert found
    return found


def run(tunnel: Tunnel, pages: int = 3) -> None:
    """A few visitors, and the end."""
    for _ in range(pages):
        assert fetch(tunnel.public) == "here"
    for process in (tunnel.client, tunnel.server):
        assert process.terminate() == 0


class JsonTunnel(Tunnel):
    """Waits for lines of which the message is a part."""

    def wait_for_server(self) -> None:
        self.server.wait_for(rf'"control port listening on {re.escape(LOOPBACK)}:{self.control}"')

    def wait_for_client(self, *, after: int = 0) -> None:
        self.client.wait_for(
            rf'"{re.escape(LOOPBACK)}:{self.public} is published; the service at \S+ answers"', after=after
        )


@pytest.fixture
def start_json_tunnel(twistd: Twistds) -> StartTunnel:
    return partial(JsonTunnel, twistd)


def test_json(serve: Serve, start_json_tunnel: StartTunnel) -> None:
    service = serve(GET=page("here"))
    options = ["--log-format=json", "--log-level=debug"]
    tunnel = start_json_tunnel(service.address, server=options, client=options)
    run(tunnel)
    for process in (tunnel.server, tunnel.client):
        for line in lines(process):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
            assert line["level"] in LEVELS
            assert isinstance(line["message"], str)
            assert line["message"]
            assert "traceback" not in line
        assert {line["level"] for line in lines(process)} <= {"debug", "info"}
    (published,) = [line for line in lines(tunnel.client) if "is published" in line["message"]]
    assert published["level"] == "info"
    assert published["message"] == (
        f"{LOOPBACK}:{tunnel.public} is published; the service at {service.address} answers"
    )
    # A program need not take the message apart.
    assert published["public"] == f"{LOOPBACK}:{tunnel.public}"
    (published,) = [line for line in lines(tunnel.server) if line["message"].endswith("published")]
    assert published["address"] == f"{LOOPBACK}:{tunnel.public}"
    assert published["local"] == service.address


@pytest.mark.parametrize("level", ["debug", "info"])
def test_visitors_are_shown_at_debug_level_only(level: str, serve: Serve, start_tunnel: StartTunnel) -> None:
    option = [f"--log-level={level}"]
    tunnel = start_tunnel(serve(GET=page("here")).address, server=option, client=option)
    seen = [len(tunnel.server.output), len(tunnel.client.output)]
    for _ in range(3):
        assert fetch(tunnel.public) == "here"
    assert tunnel.client.terminate() == 0
    assert tunnel.server.terminate() == 0
    for process, start in zip((tunnel.server, tunnel.client), seen, strict=True):
        assert len(re.findall(rf"visitor {LOOPBACK}:\d+", process.output[start:])) == (3 if level == "debug" else 0)


def test_at_level_warn_a_run_without_trouble_says_nothing(twistd: Twistds, serve: Serve) -> None:
    service = serve(GET=page("here"))
    control, public = free_port(), free_port()
    address = f"{LOOPBACK}:{control}"
    options = [f"--control-listen={address}", f"--public-interface={LOOPBACK}", "--log-level=warn"]
    server = twistd("rtunnel-server", *options)
    wait_until_open(control)
    options = [f"--server={address}", f"--local={service.address}", f"--remote-port={public}", "--log-level=warn"]
    client = twistd("rtunnel-client", *options)
    wait_for_page(public, "here", PATIENCE)
    for process in (client, server):
        assert process.terminate() == 0
        assert process.output == ""
