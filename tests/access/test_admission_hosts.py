"""Which client may have which host name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtunnel.access.admission import Admission, AdmissionSettings
from rtunnel.access.public import Public
from rtunnel.errors import Code, Refused

CLIENTS = """
laptop: {hosts: [app.example.org, "*.dev.example.org"], ports: none}
phone: {hosts: none}
anybody:
"""


@pytest.fixture
def admission(tmp_path: Path) -> Admission:
    path = tmp_path / "clients.yaml"
    path.write_text(CLIENTS)
    return Admission(AdmissionSettings(path))


def public(host: str, protocol: str = "http", path: str = "") -> Public:
    return Public.requested(0, protocol, host, path)


@pytest.mark.parametrize(
    ("name", "host", "is_allowed"),
    [
        ("laptop", "app.example.org", True),
        ("laptop", "a.dev.example.org", True),
        ("laptop", "*.dev.example.org", True),
        ("laptop", "*.a.dev.example.org", True),
        ("laptop", "dev.example.org", False),
        ("laptop", "*.example.org", False),
        ("laptop", "*.app.example.org", False),
        ("laptop", "example.org", False),
        ("phone", "app.example.org", False),
        ("anybody", "app.example.org", True),
        ("anybody", "*.example.org", True),
    ],
)
@pytest.mark.parametrize("protocol", ["http", "https"])
def test_a_name(admission: Admission, name: str, host: str, is_allowed: bool, protocol: str) -> None:
    if is_allowed:
        admission.check_tunnel(name, public(host, protocol), 1)
        admission.check_stream(name, public(host, protocol), 1)
        return
    for check in (admission.check_tunnel, admission.check_stream):
        with pytest.raises(Refused) as caught:
            check(name, public(host, protocol), 1)
        assert caught.value.code == Code.HOST_NOT_ALLOWED
        assert caught.value.message.startswith(f"{host} is not among the host names of this client: ")


def test_what_is_allowed_is_said(admission: Admission) -> None:
    with pytest.raises(Refused, match=r"^x is not among the host names of this client: none$"):
        admission.check_tunnel("phone", public("x"), 1)
    with pytest.raises(Refused, match=r"client: app\.example\.org, \*\.dev\.example\.org$"):
        admission.check_tunnel("laptop", public("x"), 1)


def test_ports_and_names_are_rights_of_their_own(admission: Admission) -> None:
    admission.check_tunnel("phone", Public(8080), 1)
    with pytest.raises(Refused, match=r"not among those allowed"):
        admission.check_tunnel("laptop", Public(8080), 1)


def test_a_stranger_gets_no_name(admission: Admission) -> None:
    with pytest.raises(Refused) as caught:
        admission.check_tunnel("stranger", public("app.example.org"), 1)
    assert caught.value.code == Code.UNAUTHORIZED


def test_names_are_not_asked_about_without_a_file() -> None:
    Admission(AdmissionSettings()).check_tunnel("", public("app.example.org"), 1)
