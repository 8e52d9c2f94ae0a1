"""The keys ``health-...`` of an entry."""

from __future__ import annotations

import pytest

from rtunnel.services.health_settings import HealthSettings
from tests.options.conftest import Write
from tests.options.tunnels import parse, refused

pytestmark = pytest.mark.usefixtures("nothing_from_outside")

TCP = "local: 80, remote-port: 80"
SEVERAL = ((200, 200), (300, 302))
HTTP = "publish: 'http:app.example.org=80'"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (TCP, None),
        (f"{TCP}, health-check: tcp", HealthSettings()),
        (f"{TCP}, health_check: /", HealthSettings("/")),
        (f"{TCP}, health-check: http://app", HealthSettings("/", "app")),
        (f"{TCP}, health-check: 'http://app:81/x?y=1'", HealthSettings("/x?y=1", "app:81")),
        (f"{TCP}, health-check: 'http://[::1]:81/x'", HealthSettings("/x", "[::1]:81")),
        (f"{HTTP}, health-check: /healthz", HealthSettings("/healthz", "app.example.org")),
        (f"{HTTP}, health-check: http://other/healthz", HealthSettings("/healthz", "other")),
        ("publish: 'http:*.a.example=80', health-check: http://x.a.example/", HealthSettings("/", "x.a.example")),
        ("publish: 'https:*.a.example=80', health-check: tcp", HealthSettings()),
        (f"{TCP}, health-check: /, health-status: 204", HealthSettings("/", statuses=((204, 204),))),
        (f"{TCP}, health-check: /, health-status: '200, 300-302'", HealthSettings("/", statuses=SEVERAL)),
        (f"{TCP}, health-check: /, health-status: [200, 300-302]", HealthSettings("/", statuses=SEVERAL)),
        (f"{TCP}, health-check: tcp, health-interval: 1m", HealthSettings(interval=60.0)),
        (f"{TCP}, health-check: tcp, health-interval: 500ms", HealthSettings(interval=0.5, timeout=0.5)),
        (f"{TCP}, health-check: tcp, health-timeout: 10", HealthSettings(timeout=10.0)),
        (f"{TCP}, health-check: tcp, health-fall: 1, health-rise: 5", HealthSettings(fall=1, rise=5)),
    ],
)
def test_forms(config: Write, entry: str, expected: HealthSettings | None) -> None:
    (found,) = parse("--config", config(f"tunnels: [{{{entry}}}]"))
    assert found.health == expected


def test_each_port_of_a_range(config: Write) -> None:
    found = parse("--config", config("tunnels: [{publish: 'tcp:6000-6002=6000-6002', health-check: tcp}]"))
    assert [tunnel.health for tunnel in found] == [HealthSettings()] * 3


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (f"{TCP}, health-check: http", "'http' is not a check; write tcp, a path such as /healthz, or http://NAME/"),
        (f"{TCP}, health-check: 'http://a b/'", "'http://a b/' is not a check; write"),
        (f"{TCP}, health-check: 'https://app/x'", "'https://app/x' is not a check; write"),
        (f"{TCP}, health-check: '/a b'", "'/a b' is not a check; write"),
        (f"{TCP}, health-check: '/a#b'", "'/a#b' is not a check; write"),
        (f'{TCP}, health-check: "/a\\r\\nX: y"', r"'/a\r\nX: y' is not a check; write"),
        (f"{TCP}, health-check: '/ä'", "'/ä' is not a check; write"),
        (f"{TCP}, health-check: yes", "true is not text"),
        (f"{TCP}, health-check: [tcp]", '["tcp"] is not text'),
        (f"{TCP}, health-check: ''", "is empty"),
        ("publish: 'tcp:80=files:/', health-check: tcp", "is not for files:, which the client serves itself; leave it"),
        ("publish: 'udp:53=53', health-check: tcp", "is not for UDP, where a service accepts no connections; leave it"),
        (
            "publish: 'http:*.a.example=80', health-check: /x",
            "does not say for which name of *.a.example it asks; write for example http://www.a.example/x",
        ),
    ],
)
def test_checks_that_are_none(config: Write, entry: str, message: str) -> None:
    said = refused("--config", config(f"tunnels: [{{{entry}}}]"))
    assert said.partition("entry 1: key 'health_check': ")[2].startswith(message), said


@pytest.mark.parametrize(
    ("check", "key", "message"),
    [
        ("tcp", "status: 200", "is for a check by HTTP; write health-check: /"),
        ("/", "status: OK", "'OK' is not an HTTP status; write 200, 200-299, or"),
        ("/", "status: 100", "'100' is not an HTTP status; write 200"),
        ("/", "status: 399-200", "'399-200' ends before it begins; write 200-399"),
        ("/", "status: []", "'' is not an HTTP status; write 200"),
        ("/", "status: true", "true is not text"),
        ("tcp", "interval: 0", "0 is out of range; a time here is more than 0"),
        ("tcp", "interval: 10ms", "'10ms' is too short; write at least 100ms"),
        ("tcp", "interval: soon", "'soon' is not a time; write seconds such"),
        ("tcp", "timeout: 0", "0 is out of range; a time here is more than 0"),
        ("tcp", "timeout: 11", "is longer than health-interval; write at most 10, or a longer interval"),
        ("tcp", "fall: 0", "0 is out of range; write a whole number from 1 to 100"),
        ("tcp", "rise: two", "'two' is not a whole number; write one from 1 to 100"),
    ],
)
def test_mistakes(config: Write, check: str, key: str, message: str) -> None:
    said = refused("--config", config(f"tunnels: [{{{TCP}, health-check: {check}, health-{key}}}]"))
    name = key.partition(":")[0]
    assert said.partition(f"entry 1: key 'health_{name}': ")[2].startswith(message), said


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("health-interval: 5", "key 'health_interval': has no effect without a check; add health-check: tcp"),
        ("health-chek: tcp", "unknown key 'health_chek'; did you mean 'health_check'?"),
    ],
)
def test_without_a_check(config: Write, key: str, message: str) -> None:
    assert refused("--config", config(f"tunnels: [{{{TCP}, {key}}}]")).endswith(f"entry 1: {message}")


def test_https_by_who_ends_tls(config: Write) -> None:
    """A check by HTTP does not speak TLS."""
    entry = "publish: 'https:app.example.org=8080', health-check: /healthz"
    message = "https:app.example.org: key 'health_check': the service speaks TLS, and the check HTTP without; write"
    assert message in refused("--config", config(f"tunnels: [{{{entry}}}]"))
    passed = config(f"tunnels: [{{{entry}, tls: passthrough}}]")
    assert message in refused("--config", passed, "--acme-email=me@example.org")
    (ended,) = parse("--config", config(f"tunnels: [{{{entry}}}]"), "--acme-email=me@example.org")
    assert ended.health == HealthSettings("/healthz", "app.example.org")
