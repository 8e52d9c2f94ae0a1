"""The fixtures through which the tests of this folder start their processes and services."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.process.harness import Twistd, Twistds
from tests.process.nginx import Nginx
from tests.process.rtc import RtcTunnel, UdpService
from tests.process.services import Service, Talent, Tunnel
from tests.process.systemd import Systemd
from tests.process.upgrades import Newer, Successors
from tests.process.web_services import LoggingNginx, Site

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def twistd(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Twistds]:
    """Starts ``twistd -n ARGUMENTS``; whatever is still running when the test is over is ended.

    A test with the marker ``cold``, and every test with the option ``--cold``, has it start with all its imports.
    """
    cold = request.config.getoption("--cold") or request.node.get_closest_marker("cold") is not None
    started = Twistds(tmp_path, cold=cold)
    yield started
    started.end_all()


@pytest.fixture
def systemd(twistd: Twistds, tmp_path: Path) -> Iterator[Systemd]:
    """As much of systemd as a service sees."""
    with Systemd(twistd, tmp_path) as found:
        yield found


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    """``serve(get=get, count=count)``: a local service with these talents, for the time of the test."""
    services: list[Service] = []

    def start(**talents: Talent) -> Service:
        services.append(Service(talents))
        return services[-1]

    yield start
    for service in services:
        service.close()


@pytest.fixture
def start_tunnel(twistd: Twistds, request: pytest.FixtureRequest) -> Callable[..., Tunnel]:
    """``start_tunnel(local, server=[...], client=[...])``: a server and a client that work.

    Tests of what holds on every plane say so by ``BOTH_PLANES`` of :mod:`tests.process.services`.
    """
    return partial(Tunnel, twistd, data_plane=getattr(request, "param", "auto"))


@pytest.fixture
def start_rtc(twistd: Twistds) -> Iterator[Callable[..., RtcTunnel]]:
    """``start_rtc(remote, host=[...], client=[...])``: a WebRTC tunnel that works, and ends as it should."""
    tunnels: list[RtcTunnel] = []

    def start(remote: str, **options: Sequence[str]) -> RtcTunnel:
        tunnels.append(RtcTunnel(twistd, remote, **options))
        return tunnels[-1]

    yield start
    for tunnel in tunnels:
        tunnel.end()


@pytest.fixture
def udp_service() -> Iterator[UdpService]:
    """A private service of UDP."""
    service = UdpService()
    yield service
    service.close()


@pytest.fixture
def nginx(twistd: Twistds, tmp_path: Path) -> Nginx:
    """A web server; the test is skipped where nginx is not installed."""
    return Nginx(twistd, tmp_path / "nginx")


@pytest.fixture
def start_site(twistd: Twistds) -> Callable[..., Site]:
    """``start_site(PLANE, server=[...])``: a server with an HTTP port, and its clients."""
    return lambda plane="auto", **more: Site(twistd, plane, **more)


@pytest.fixture
def start_nginx(twistd: Twistds, tmp_path: Path) -> Callable[[str], LoggingNginx]:
    """``start_nginx(NAME)``: a web server with a page of this name."""
    return lambda name: LoggingNginx(twistd, tmp_path / name, name)


@pytest.fixture
def heeds_sigint() -> Iterator[None]:
    """Processes heed SIGINT, even where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def control_sockets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the control sockets of this test are, so that it sees no others."""
    path = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(path))
    return path


@pytest.fixture
def successors(twistd: Twistds) -> Iterator[Successors]:
    """Upgrades processes; those that have taken the place of others end with the test."""
    made = Successors()
    yield made
    made.end()


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Newer:
    """Lets processes that start from now on behave otherwise, if those of now were started by ``twistd``."""
    directory = tmp_path / "newer"
    start = Twistd.__init__

    def started(self: Twistd, *arguments: str, env: Mapping[str, str] | None = None, **more: Any) -> None:
        start(self, *arguments, env={"PYTHONPATH": f"{directory}:{ROOT}", **(env or {})}, **more)

    monkeypatch.setattr(Twistd, "__init__", started)
    return Newer(directory)
