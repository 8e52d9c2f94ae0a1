"""``rtunnel id --second``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rtunnel.access.identities import load_identity
from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.options.command import main
from rtunnel.rtc.rights.trusted import describe, identity_of, trust_of
from tests.needs import needs_liboqs
from tests.options.rtc_parts import parse_host

pytestmark = [*needs_liboqs, pytest.mark.usefixtures("nothing_from_outside")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the identities are."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return tmp_path / "state" / "identities"


def shown(folder: Path, end: str) -> str:
    return show_fingerprint(load_identity(folder / f"{end}.pem", "x").fingerprint)


def test_it_makes_both(folder: Path, capsys: Any) -> None:
    assert main(["id", "--second", "Falcon-1024"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{f'{end}:':7} {shown(folder, end)}   (ML-DSA-65 + Falcon-1024; new; its key is in {folder / f'{end}.pem'})"
        for end in ("host", "client")
    ]
    # Afterwards with the option and without it.
    for arguments in (["id"], ["id", "--second", "Falcon-1024"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out.splitlines()[0] == f"host:   {shown(folder, 'host')}   (ML-DSA-65 + Falcon-1024)"
    assert main(["id", "client", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["client"]["signature"] == "ML-DSA-65 + Falcon-1024"


def test_the_service_uses_it(folder: Path) -> None:
    assert main(["id", "host", "--second", "MAYO-5"]) == 0
    settings = parse_host()
    identity = identity_of(settings)
    assert identity.second is not None
    assert describe(identity, trust_of(settings)) == {
        "fingerprint": shown(folder, "host"),
        "signature": "ML-DSA-65 + MAYO-5",
        "closed": False,
    }


def test_an_identity_that_exists_stays(folder: Path, capsys: Any) -> None:
    """Neither of the two is made then."""
    assert main(["id", "client"]) == 0
    before = (folder / "client.pem").read_bytes()
    capsys.readouterr()
    assert main(["id", "--second", "MAYO-5"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"rtunnel id: {folder / 'client.pem'} is an identity of ML-DSA-65, and is never replaced: ")
    assert error.count("\n") == 1
    assert not (folder / "host.pem").exists()
    assert (folder / "client.pem").read_bytes() == before
    # What the line says helps.
    (folder / "client.pem").rename(folder / "client.pem.old")
    assert main(["id", "--second", "MAYO-5"]) == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Falcon", "rtunnel id: --second: 'Falcon' is no kind of second key"),
        ("SPHINCS", "rtunnel id: --second: 'SPHINCS' is no kind of second key; write Falcon-1024 or MAYO-5"),
        ("", "rtunnel id: --second: '' is no kind of second key; write Falcon-1024 or MAYO-5"),
    ],
)
def test_mistakes(folder: Path, capsys: Any, value: str, message: str) -> None:
    assert main(["id", "--second", value]) == 1
    assert capsys.readouterr().err.startswith(message)
    assert not folder.exists()
