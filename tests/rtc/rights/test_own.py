"""The certificate of an end, whose files change while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel, eventAsText, globalLogPublisher

from rtunnel.errors import ConfigError
from rtunnel.pki import authority
from rtunnel.pki.certificates import Identity, Kind
from rtunnel.pki.files import PRIVATE, PUBLIC, Draft, publish
from rtunnel.rtc.rights.own import CHANGED, WARN_EVERY, OwnIdentity
from tests.access.peers.parts import Organisation
from tests.options.rtc_parts import parse_host


class Place:
    """Where the files of a host are.

    :ivar said: what is logged, each as level and text.
    :ivar used: the identities that the end was told to be.
    """

    def __init__(self, directory: Path) -> None:
        self.organisation = Organisation(directory)
        self.cert, self.key = directory / "myhost.crt", directory / "myhost.key"
        self.said: list[tuple[LogLevel, str]] = []
        self.used: list[Any] = []

    def hears(self, event: Any) -> None:
        """Take a line of the log."""
        self.said.append((event["log_level"], eventAsText(event, includeTimestamp=False, includeSystem=False)))

    def issue(self, days: int) -> Identity:
        """Put a new certificate there that is valid for so many days."""
        issued = authority.issue(self.organisation.ca, Kind.HOST, "myhost", days=days)
        self.write(issued.certificate_pem, issued.key_pem)
        return issued

    def write(self, certificate: bytes, key: bytes) -> None:
        """Replace both files."""
        publish([Draft(self.cert, certificate, PUBLIC, replaces=True), Draft(self.key, key, PRIVATE, replaces=True)])

    def own(self) -> OwnIdentity:
        """The identity of a host that has these files."""
        return OwnIdentity(parse_host(f"--identity-cert={self.cert}", f"--identity-key={self.key}"))


@pytest.fixture
def place(tmp_path: Path) -> Any:
    tmp_path.chmod(0o700)
    made = Place(tmp_path)
    observer: Any = made.hears
    globalLogPublisher.addObserver(observer)
    yield made
    globalLogPublisher.removeObserver(observer)


def test_renewed(place: Place) -> None:
    first = place.issue(days=400)
    own = place.own()
    assert not own.look(0.0, place.used.append)
    assert own.now.certificate == first.certificate
    second = place.issue(days=400)
    assert own.look(1.0, place.used.append)
    assert own.now.certificate == second.certificate
    assert place.used == [own.now]
    assert not own.look(2.0, place.used.append)
    assert place.said == [(LogLevel.info, CHANGED)]


def test_what_cannot_be_used_changes_nothing(place: Place) -> None:
    issued = place.issue(days=400)
    own = place.own()
    other = authority.issue(place.organisation.ca, Kind.CLIENT, "laptop", days=400)
    place.write(other.certificate_pem, other.key_pem)
    # The two files cannot be replaced at the same moment.
    assert not own.look(1.0, place.used.append)
    assert place.said == []
    assert not own.look(2.0, place.used.append)
    [(level, text)] = place.said
    assert level is LogLevel.warn
    assert "myhost.crt is not for a host: " in text
    assert text.endswith("; the certificate of before stays in use until that is mended")
    assert own.now.certificate == issued.certificate
    assert place.used == []
    # The same file again is nobody else, and whoever reads the log wants to know.
    place.write(issued.certificate_pem, issued.key_pem)
    assert not own.look(3.0, place.used.append)
    assert place.said[1:] == [(LogLevel.info, CHANGED)]


def test_what_tls_cannot_use_is_one_line(place: Place) -> None:
    place.issue(days=400)
    own = place.own()
    place.issue(days=400)

    def use(_: object) -> None:
        raise ConfigError("TLS cannot use it")

    assert not own.look(1.0, use)
    assert not own.look(2.0, use)
    assert place.said == [
        (LogLevel.warn, "TLS cannot use it; the certificate of before stays in use until that is mended")
    ]


def test_it_warns_once_a_day_before_the_end(place: Place) -> None:
    place.issue(days=10)
    own = place.own()
    for second in (0.0, 1.0, WARN_EVERY - 1.0):
        own.look(second, place.used.append)
    [(level, text)] = place.said
    assert level is LogLevel.warn
    assert text.startswith("the certificate of 'myhost' expires in ")
    own.look(WARN_EVERY, place.used.append)
    assert place.said == [(level, text)] * 2
    place.issue(days=400)
    assert own.look(WARN_EVERY + 1.0, place.used.append)
    own.look(3 * WARN_EVERY, place.used.append)
    assert place.said[2:] == [(LogLevel.info, CHANGED)]
