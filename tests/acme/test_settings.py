"""The settings of ACME."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtunnel.acme.settings import KNOWN, AcmeSettings, default_state_dir, email, server
from rtunnel.errors import ConfigError


def test_each_ca_has_a_directory_of_its_own() -> None:
    found = {AcmeSettings("a@b", Path("/state"), url).directory for url in (*KNOWN.values(), "https://[::1]:14000/dir")}
    assert found == {
        Path("/state/acme/acme-v02.api.letsencrypt.org_directory"),
        Path("/state/acme/acme-staging-v02.api.letsencrypt.org_directory"),
        Path("/state/acme/_1_14000_dir"),
    }


@pytest.mark.parametrize("good", ["a@b", "first.last+tag@sub.example.org"])
def test_email(good: str) -> None:
    assert email(good) == good


@pytest.mark.parametrize("bad", ["", "admin", "@example.org", "a@", "a b@c", "a@b,c@d", "mailto:a@b", "ä@example.org"])
def test_no_email(bad: str) -> None:
    with pytest.raises(ConfigError, match="is not an e-mail address; write one such as"):
        email(bad)


def test_server() -> None:
    assert server("letsencrypt-staging") == KNOWN["letsencrypt-staging"]
    assert server("https://ca.lan:9000/acme/acme/directory") == "https://ca.lan:9000/acme/acme/directory"


@pytest.mark.parametrize(
    "bad", ["", "zerossl", "http://ca.lan/dir", "https://", "https://ca:x/", "https://ca lan/", "https://[::1/"]
)
def test_no_server(bad: str) -> None:
    with pytest.raises(ConfigError, match="is not the URL of a CA's directory; write letsencrypt or"):
        server(bad)


def test_where_state_is() -> None:
    assert default_state_dir({"STATE_DIRECTORY": "/var/lib/rtunnel:/var/lib/other"}) == Path("/var/lib/rtunnel")
    assert default_state_dir({"XDG_STATE_HOME": "/x", "HOME": "/home/me"}) == Path("/x/rtunnel")
    assert default_state_dir({"XDG_STATE_HOME": "x", "HOME": "/home/me"}) == Path("/home/me/.local/state/rtunnel")
