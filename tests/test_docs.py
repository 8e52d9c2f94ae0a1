"""The documents name what the code has: every option with its default, every code of an error."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from rtunnel.errors import Code
from rtunnel.options.settings import rtc
from rtunnel.options.settings.reverse import CLIENT, SERVER
from rtunnel.options.settings.sources import Setting
from rtunnel.wire import frames

ROOT = Path(__file__).parent.parent
OPTIONS = [setting for setting in {setting.name: setting for setting in (*SERVER, *CLIENT)}.values() if setting.flag]
READMES = [ROOT / "README.rst", ROOT / "README.zh-CN.rst"]
RTC_OPTIONS = list({setting.key: setting for setting in rtc.ALL}.values())

#: Options of twistd, pip and make that the documents name too.
FOREIGN = {"nodaemon", "pidfile", "logfile", "reactor", "uid", "gid", "umask", "help", "version", "syslog", "logger"}


def lines_with(document: str, text: str) -> list[str]:
    return [line for line in (ROOT / document).read_text().splitlines() if text in line]


@pytest.mark.parametrize("setting", OPTIONS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("document", ["docs/configuration.rst"])
def test_option_is_documented_with_its_default(setting: Setting, document: str) -> None:
    default = setting.shown_default.removesuffix(" s")
    lines = lines_with(document, f"``--{setting.name}``")
    assert lines, f"{document} does not name --{setting.name}"
    if default:
        text = (ROOT / document).read_text()
        start = text.index(f"``--{setting.name}``")
        assert any(default in part for part in (text[start : start + 400], *lines))


@pytest.mark.parametrize("setting", RTC_OPTIONS, ids=lambda setting: setting.key)
def test_option_of_the_webrtc_tunnel_is_documented_with_its_default(setting: Setting) -> None:
    """In one line of a table: flag, variable, key and default."""
    text = (ROOT / "docs/configuration.rst").read_text()
    tables = [line for line in text[text.index("\nrtc-signal\n---") :].splitlines() if line.startswith("``--")]
    (line,) = (line for line in tables if {f"``--{setting.name}``", f"``{setting.key}``"} <= set(line.split()))
    assert f"``{setting.variable}``" in line
    assert setting.shown_default in line


@pytest.mark.parametrize("setting", [*OPTIONS, *RTC_OPTIONS], ids=lambda setting: setting.key)
def test_configuration_names_variable_and_key(setting: Setting) -> None:
    for variable in setting.variables:
        assert lines_with("docs/configuration.rst", f"``{variable}``")
    assert lines_with("docs/configuration.rst", f"``{setting.key}``")


@pytest.mark.parametrize("code", list(Code))
def test_code_is_documented(code: Code) -> None:
    assert lines_with("docs/wire.rst", f"``{code}``")


@pytest.mark.parametrize("name", frames.NAMES.values())
def test_frame_is_documented(name: str) -> None:
    assert lines_with("docs/wire.rst", name)


def test_documents_name_only_options_that_there_are() -> None:
    known = {setting.name for setting in [*OPTIONS, *RTC_OPTIONS]} | FOREIGN | {"config"}
    for document in [*READMES, *sorted((ROOT / "docs").glob("*.rst"))]:
        named = set(re.findall(r"``--([a-z][a-z-]+)", document.read_text()))
        unknown = {name for name in named - known if not name.startswith("tls")}
        assert not unknown, f"{document.name}: {sorted(unknown)}"


def commands(document: Path) -> set[str]:
    """The literal blocks of a document that are shell commands."""
    blocks = re.findall(r"::\n\n((?: {4,}.*\n)+)", document.read_text())
    command = re.compile(r"(?:RTUNNEL_\w+=\S+ )?(?:curl|make|python3|rtunnel|ssh|twistd) ")
    return {text for block in blocks if command.match(text := textwrap.dedent(block))}


def test_readme_is_short() -> None:
    assert len(READMES[0].read_text().splitlines()) <= 300


def test_readmes_have_the_same_commands() -> None:
    english, chinese = map(commands, READMES)
    assert len(english) > 10
    assert english == chinese


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_readme_links_to_files_that_there_are(readme: Path) -> None:
    links = re.findall(r"<([^>:]+)>`__", readme.read_text())
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
