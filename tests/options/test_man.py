"""The manual pages are those of the declarations, and groff has nothing to say against them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rtunnel.options.help.man import DIRECTORY, pages, write
from rtunnel.options.help.tree import tree
from tests.process.harness import need

PAGES = Path(__file__).parent.parent.parent / DIRECTORY


def test_they_are_those_of_the_declarations() -> None:
    written = {path.name: path.read_text(encoding="ascii") for path in PAGES.iterdir()}
    assert written == pages(tree()), "write them anew: python -m rtunnel.options.help.man"


def test_every_command_and_option_is_there() -> None:
    all_pages = pages(tree())
    for command in tree().commands:
        page = all_pages[f"rtunnel-{command.words[1]}.1"].replace("\\-", "-")
        for each in command.walk():
            assert f"{each.path}" in page
            assert all(f"\\fB{option.flags[0]}\\fR" in page for option in each.options if each is command)


def test_pages_of_commands_that_are_gone(tmp_path: Path) -> None:
    (tmp_path / "rtunnel-gone.1").touch()
    write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in PAGES.iterdir()}


@pytest.mark.process
def test_groff_takes_them() -> None:
    groff = need("groff")
    for path in sorted(PAGES.iterdir()):
        done = subprocess.run([groff, "-man", "-ww", "-Tutf8", path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), path


@pytest.mark.process
def test_they_are_shown_as_they_were_written() -> None:
    """A hyphen stays a hyphen, so that an option can be copied from the page."""
    groff = need("groff")
    page = PAGES / "rtunnel-service.1"
    argv = [groff, "-man", "-Tutf8", "-P-c", "-P-u", "-P-b", str(page)]
    shown = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "sudo /opt/rtunnel/bin/rtunnel service install server --socket\n" in shown.stdout
