"""Each setting of the WebRTC tunnel that is declared to count without a restart really does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.options.plugins import rtc_client, rtc_host, rtc_signal
from rtunnel.options.settings.rtc import CLIENT, HOST, SIGNAL
from rtunnel.pki.certificates import common_name
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.settings import IceSettings
from rtunnel.tls.web_server import WebTlsFactory
from tests.ports import free_port
from tests.reload.conftest import Run
from tests.reload.parts import PROCESS, Case, Running, check, check_complete
from tests.tls.parts import SERVER, Authority

# Both ends


def ice(running: Running) -> IceSettings:
    """What a new peer connection would use."""
    found: IceSettings = running.service.settings.ice
    return found


def limits(running: Running) -> Any:
    """What a new peer connection would have."""
    return running.service.settings.limits


def status(running: Running) -> Any:
    return running.plugin._control


def leads_to(running: Running) -> str:
    """Where the next attempt goes."""
    return str(running.service.signaling._leads_to).removeprefix("signaling server ")


def written(name: str, content: str) -> Any:
    """Returns what writes a file in the directory of a test, and returns its path."""

    def write(directory: Path) -> str:
        path = directory / name
        path.write_text(content)
        return str(path)

    return write


def of_organisation(running: Running, _value: Any) -> bool:
    """Whether new peer connections would have the certificate of the organisation."""
    return common_name(running.service.sealing.identity.certificate) == "laptop"


FINGERPRINT = "ab" * 32
TURN = {"turn": {"servers": ["turn:127.0.0.1:3478"], "user": "me", "credential": "you"}}

ENDS = {
    **PROCESS,
    "signal": Case(
        "ws://127.0.0.1:2", lambda r, v: r.service.signaling.url == v and v in r.service.signaling._leads_to
    ),
    "token": Case("a-secret-word", lambda r, v: r.service.signaling._settings.token == v),
    "ca-file": Case(
        lambda d: str(d / "pki" / "ca.crt"),
        lambda r, v: str(r.service.signaling._settings.ca_file) == v,
        lambda _: {"signal": "wss://127.0.0.1:1"},
    ),
    "reconnect-min": Case("7s", lambda r, _: r.service.signaling._backoff._shortest == 7),
    "reconnect-max": Case("77s", lambda r, _: r.service.signaling._backoff._longest == 77),
    "connect-timeout": Case("7s", lambda r, _: r.service.signaling._settings.connect_timeout == 7),
    "stun-server": Case("stun:127.0.0.1:9", lambda r, _: ice(r).stun_server == ("127.0.0.1", 9)),
    "turn-server": Case(["turn:127.0.0.1:3478"], lambda r, _: ice(r).turn_servers != (), lambda _: TURN),
    "turn-user": Case("me", lambda r, v: ice(r).turn_user == v, lambda _: TURN),
    "turn-credential": Case("you", lambda r, v: ice(r).turn_credential == v, lambda _: TURN),
    "turn-secret": Case(
        "them", lambda r, v: ice(r).turn_secret == v, lambda _: {"turn": {"servers": ["turn:127.0.0.1:3478"]}}
    ),
    "ice-interface": Case(["127.0.0.2"], lambda r, _: ice(r).interfaces == ("127.0.0.2",)),
    "drain": Case("7s", lambda r, _: r.service._drain == 7),
    "max-streams": Case(7, lambda r, _: limits(r).max_streams == 7),
    "initial-credit": Case("8K", lambda r, _: limits(r).initial_credit == 8192),
    "max-window": Case("1M", lambda r, _: limits(r).max_window == 1 << 20),
    "peer-buffer": Case("1M", lambda r, _: limits(r).peer_buffer == 1 << 20),
    "memory": Case("64M", lambda r, _: r.service.memory.total == 64 << 20),
    "identity-cert": Case(
        lambda d: str(d / "pki" / "laptop.crt"),
        of_organisation,
        lambda v: {"identity": {"cert": v, "key": v.replace(".crt", ".key")}},
    ),
    "identity-key": Case(
        lambda d: str(d / "pki" / "laptop.key"),
        of_organisation,
        lambda v: {"identity": {"key": v, "cert": v.replace(".key", ".crt")}},
    ),
    "peer-ca": Case(lambda d: str(d / "pki" / "ca.crt"), lambda r, _: r.service.trust.is_closed),
}


# The host


def service(running: Running, name: str) -> Any:
    return running.service.offered.get(name)


def place(found: Any) -> str:
    return "" if found is None else str(found.settings.remote)


HOST_CASES = {
    **ENDS,
    "remote": Case("127.0.0.1:7", lambda r, v: place(service(r, "")) == v),
    "protocol": Case("udp", lambda r, _: service(r, "").watch is None),
    "service": Case(["web=127.0.0.1:7"], lambda r, _: place(service(r, "web")) == "127.0.0.1:7"),
    "dial-timeout": Case("7s", lambda r, _: service(r, "").endpoint._timeout == 7),
    "check-services": Case(False, lambda r, _: service(r, "").watch._endpoint is None),
    "max-clients": Case(7, lambda r, _: r.service.settings.max_clients == 7),
    "authorized-clients": Case(
        written("clients", f"laptop: {{fingerprint: {FINGERPRINT}}}"),
        lambda r, v: str(r.service.trust.clients_file) == v and r.service.trust.is_closed,
    ),
    "udp-idle": Case("7s", lambda r, _: r.service.settings.udp_idle == 7),
    "max-flows": Case(7, lambda r, _: r.service.settings.max_flows == 7),
}


def of_an_end(run: Run, plugin: Any, **own: Any) -> Running:
    return run(
        plugin,
        signal="ws://127.0.0.1:1",
        stun={"server": ""},
        ice={"interfaces": ["127.0.0.1"]},
        status_listen="127.0.0.1:0",
        **own,
    )


@pytest.fixture
def host(run: Run, authority: Authority) -> Running:
    authority.issue("laptop", SERVER)
    running = of_an_end(run, rtc_host, host={"id": "cottage", "remote": "127.0.0.1:9"})
    assert isinstance(running.service, RtcHost)
    return running


def test_there_is_a_case_for_each_of_a_host() -> None:
    check_complete(HOST, HOST_CASES)


@ensureDeferred
@pytest.mark.parametrize("name", HOST_CASES)
async def test_it_counts_at_a_host(host: Running, name: str, tmp_path: Path) -> None:
    await check(host, HOST, name, HOST_CASES[name], tmp_path)


# The client


def locals_of(running: Running) -> list[str]:
    forwards = running.service.forwards
    return [each.local_address for each in (*forwards.listeners, *(flows.listener for flows in forwards.udp))]


CLIENT_CASES = {
    **ENDS,
    "local": Case(lambda _: f"127.0.0.1:{free_port()}", lambda r, v: locals_of(r) == [v]),
    "protocol": Case("udp", lambda r, _: len(r.service.forwards.udp) == 1),
    "forward": Case(lambda _: [f"127.0.0.1:{free_port()}=web"], lambda r, v: v[0].removesuffix("=web") in locals_of(r)),
    "host-key": Case([FINGERPRINT], lambda r, v: r.service.trust._pins == tuple(v)),
    "known-hosts": Case(
        written("hosts", f"cottage: {FINGERPRINT}"),
        lambda r, v: str(r.service.trust._known.path) == v and r.service.trust.is_closed,
    ),
    "trust-on-first-use": Case(True, lambda r, _: r.service.trust.is_closed),
    "host-name": Case(
        lambda d: str(d / "pki" / "ca.crt"),
        lambda r, v: r.service.trust._host_name == v,
        lambda v: {"identity": {"peer_ca": v}},
    ),
    "wait-timeout": Case("7s", lambda r, _: r.service.settings.wait_timeout == 7),
    "udp-idle": Case("7s", lambda r, _: r.service.flow_table._idle == (7, 7)),
    "max-flows": Case(7, lambda r, _: r.service.flow_table.max_flows == 7),
    "reconnect-min": Case(
        "7s", lambda r, _: r.service._backoff._shortest == r.service.signaling._backoff._shortest == 7
    ),
}


@pytest.fixture
def client(run: Run, authority: Authority) -> Running:
    authority.client("laptop")
    running = of_an_end(run, rtc_client, client={"id": "cottage", "local": "127.0.0.1:0"})
    assert isinstance(running.service, RtcClient)
    return running


def test_there_is_a_case_for_each_of_a_client() -> None:
    check_complete(CLIENT, CLIENT_CASES)


@ensureDeferred
@pytest.mark.parametrize("name", CLIENT_CASES)
async def test_it_counts_at_a_client(client: Running, name: str, tmp_path: Path) -> None:
    await check(client, CLIENT, name, CLIENT_CASES[name], tmp_path)


# The signaling server


def board(running: Running) -> Any:
    return running.service.switchboard


def factory(running: Running) -> Any:
    return running.service.factory


SIGNAL_CASES = {
    "addr": Case(lambda _: f"127.0.0.1:{free_port()}", lambda r, v: r.service.listener.local_address == v),
    "tls-cert-file": Case(
        lambda d: str(d / "pki" / "server.crt"),
        lambda r, _: isinstance(r.service._door.inner, WebTlsFactory),
        lambda v: {"server": {"tls": {"key_file": v.replace(".crt", ".key")}}},
    ),
    "tls-key-file": Case(
        lambda d: str(d / "pki" / "server.key"),
        lambda r, _: isinstance(r.service._door.inner, WebTlsFactory),
        lambda v: {"server": {"tls": {"cert_file": v.replace(".key", ".crt")}}},
    ),
    "allowed-origins": Case(["https://a.example"], lambda r, _: not factory(r).origins.allow("https://b.example")),
    "valid-tokens": Case(["a-secret-word"], lambda r, v: bool(factory(r).tokens)),
    "max-hosts": Case(7, lambda r, _: board(r).max_hosts == 7),
    "max-clients": Case(7, lambda r, _: board(r).max_clients == 7),
    "max-rate": Case(7, lambda r, _: factory(r).buildProtocol(None)._rate._bucket.rate == 7),
    "max-per-address": Case(7, lambda r, _: r.service.connections.max_per_address == 7),
    "max-message": Case("8K", lambda r, _: board(r).max_message == factory(r).maxMessagePayloadSize == 8192),
    "memory": Case("64M", lambda r, _: factory(r).memory.total == 64 << 20),
    **PROCESS,
}


@pytest.fixture
def signal(run: Run, authority: Authority) -> Running:
    authority.server(kind="ECDSA")
    return run(rtc_signal, server={"addr": "127.0.0.1:0"}, status_listen="127.0.0.1:0")


def test_there_is_a_case_for_each_of_a_signaling_server() -> None:
    check_complete(SIGNAL, SIGNAL_CASES)


@ensureDeferred
@pytest.mark.parametrize("name", SIGNAL_CASES)
async def test_it_counts_at_a_signaling_server(signal: Running, name: str, tmp_path: Path) -> None:
    await check(signal, SIGNAL, name, SIGNAL_CASES[name], tmp_path)
