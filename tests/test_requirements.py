"""etc/requirements-*.txt name what setup.cfg does, without what they are there to leave out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from configparser import ConfigParser
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
OF_WEBRTC = {"aioice", "aiortc", "autobahn", "dnspython", "google-crc32c", "spake2"}


def read(lines: Iterable[str]) -> dict[str, Requirement]:
    """Requirements by the names of the packages."""
    found = [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]
    return {each.name.lower(): each for each in found if each.marker is None}


def listed(name: str) -> dict[str, Requirement]:
    return read((ROOT / "etc" / name).read_text().splitlines())


def ours() -> dict[str, Requirement]:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    return read(config["options"]["install_requires"].splitlines())


def test_the_reverse_tunnel_alone() -> None:
    assert listed("requirements-reverse.txt") == {name: each for name, each in ours().items() if name not in OF_WEBRTC}


def test_both_tunnels_without_codecs() -> None:
    assert (ROOT / "etc" / "requirements-webrtc.txt").read_text().count("\n-r requirements-reverse.txt\n") == 1
    text = (ROOT / "etc" / "requirements-webrtc.txt").read_text()
    assert "\n-r requirements-reverse.txt\n" in text
    here, of_aiortc = listed("requirements-webrtc.txt"), read(requires("aiortc") or ())
    assert here.keys() == (OF_WEBRTC | of_aiortc.keys()) - {"aiortc", "av"} - listed("requirements-reverse.txt").keys()
    for name in OF_WEBRTC - {"aiortc"}:
        assert here[name] == ours()[name]
    # The comment says what else pip is told.
    series = re.findall(r'"aiortc == (.*)\.\*"', text)
    assert [f"{each}.0" in ours()["aiortc"].specifier for each in series] == [True]
