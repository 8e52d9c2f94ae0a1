"""What an invitation is for, and what the other person types."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rtunnel.addresses import DialAddress, UdpAddress
from rtunnel.errors import ConfigError
from rtunnel.rtc.invitations.hosting import Terms
from rtunnel.rtc.invitations.terms import decide_terms, what_to_type
from rtunnel.rtc.settings import HostSettings, ServiceSettings, SignalClientSettings, SignalUrl
from rtunnel.wire.invitations.code import InvitationCode

CODE = InvitationCode(7, ("guitarist", "orca"))
PLAIN = ServiceSettings("", DialAddress.parse("127.0.0.1:80"))
WEB = ServiceSettings("web", DialAddress.parse("127.0.0.1:80"))
SSH = ServiceSettings("ssh", DialAddress.parse("127.0.0.1:22"))
DNS = ServiceSettings("dns", UdpAddress("127.0.0.1:53", "127.0.0.1", 53))


def settings(*services: ServiceSettings, token: str | None = None) -> HostSettings:
    url = SignalUrl("wss://signal.example.org", True, "signal.example.org", 443)
    return HostSettings(id="myhost", services=services, signal=SignalClientSettings(url, token))


@pytest.mark.parametrize(
    ("services", "terms", "command"),
    [
        ([PLAIN], Terms(), "--local 127.0.0.1:8080"),
        ([WEB], Terms(), "--local 127.0.0.1:8080"),
        ([WEB, SSH], Terms(frozenset({"ssh"})), "--local 127.0.0.1:8080"),
        ([DNS], Terms(), "--protocol udp --local 127.0.0.1:8080"),
        ([PLAIN, WEB], Terms(), "--local 127.0.0.1:8080"),
        ([WEB, SSH], Terms(), "--forward 127.0.0.1:8080=web --forward 127.0.0.1:8081=ssh"),
        (
            [PLAIN, WEB, DNS],
            Terms(frozenset({"web", "dns"})),
            "--forward 127.0.0.1:8080=web --forward udp:127.0.0.1:8081=dns",
        ),
    ],
)
def test_what_the_other_person_types(services: list[ServiceSettings], terms: Terms, command: str) -> None:
    assert what_to_type(CODE, terms, settings(*services)) == (
        f"rtunnel connect 7-guitarist-orca {command} --signal wss://signal.example.org"
    )


def test_a_token_is_not_printed() -> None:
    assert what_to_type(CODE, Terms(), settings(WEB, token="very secret")).endswith(" --token TOKEN")


def test_the_other_person_needs_the_same_hedges() -> None:
    command = what_to_type(CODE, Terms(), replace(settings(WEB), hedge=("FrodoKEM-1344-AES",)))
    assert command.endswith(" --signal wss://signal.example.org --hedge FrodoKEM-1344-AES")


def test_terms() -> None:
    assert decide_terms(["", "web"], [], "") == Terms(None, "")
    assert decide_terms(["", "web"], ["web"], "Anna") == Terms(frozenset({"web"}), "Anna")
    assert [str(Terms()), str(Terms(frozenset({"web"}))), str(Terms(frozenset({"web", "dns"})))] == [
        "all services",
        "service web",
        "services dns, web",
    ]


@pytest.mark.parametrize(
    ("offered", "services", "name", "why"),
    [
        (["", "web"], ["wep"], "", "this host does not offer the service 'wep'; did you mean 'web'?"),
        (["web", "dns"], ["ssh"], "", "this host does not offer the service 'ssh'; it offers web, dns"),
        ([""], ["web"], "", "this host does not offer the service 'web'; leave --service out"),
        ([""], [], "x" * 65, "a name must be printable text of up to 64 characters"),
        ([""], [], "two\nlines", "a name must be printable text of up to 64 characters"),
        ([""], [], " x", "a name must be printable text of up to 64 characters"),
    ],
)
def test_bad_terms(offered: Any, services: Any, name: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decide_terms(offered, services, name)
    assert str(caught.value) == why
