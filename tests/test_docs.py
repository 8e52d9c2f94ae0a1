"""The documents name what the code has: every option with its default, every code of an error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rtunnel.errors import Code
from rtunnel.options.settings import rtc
from rtunnel.options.settings.declaration import Setting
from rtunnel.options.settings.reverse import CLIENT, SERVER
from rtunnel.options.settings.tables import TABLES, with_tables
from rtunnel.wire import frames
from tests.documents import commands_of, files, printed
from tests.nat import test_documents, test_recipes
from tests.nat.steps import Write, named

ROOT = Path(__file__).parent.parent
OPTIONS = list({setting.key: setting for setting in (*SERVER, *CLIENT, *rtc.ALL)}.values())
READMES = [ROOT / "README.rst", ROOT / "README.zh-CN.rst"]
CONFIGURATION = "docs/configuration.rst"
SCENARIOS = test_documents.SCENARIOS | test_recipes.SCENARIOS
STEPS = [step for scenario in SCENARIOS.values() for step in scenario]

#: Options of twistd and other commands that the documents name too.
FOREIGN = {
    "json",
    "watch",
    "keep",
    "process",
    "notice",
    "within",
    "invite",
    "for",
    "nodaemon",
    "pdb",
    "pidfile",
    "logfile",
    "reactor",
    "uid",
    "gid",
    "umask",
    "help",
    "version",
    "syslog",
    "logger",
    "root",
}


def lines_with(document: str, text: str) -> list[str]:
    return [line for line in (ROOT / document).read_text().splitlines() if text in line]


def test_the_tables_of_options_are_those_of_the_declarations() -> None:
    document = (ROOT / CONFIGURATION).read_text()
    assert with_tables(document) == document, "write them anew: python -m rtunnel.options.settings.tables"
    assert sorted(re.findall(r"^\.\. options: (.+)$", document, re.MULTILINE)) == sorted(TABLES)


@pytest.mark.parametrize("setting", OPTIONS, ids=lambda setting: setting.key)
def test_option_is_in_a_table_with_all_its_names(setting: Setting) -> None:
    names = [f"``--{setting.name}``", f"``{setting.variable}``", f"``{setting.key}``"]
    rows = [row for row in lines_with(CONFIGURATION, f"``{setting.key}``") if row.split()[:3] == names]
    assert rows
    assert all(setting.shown_default in row for row in rows)
    assert not setting.in_reference or lines_with(CONFIGURATION, f"``{setting.reference_variable}``")


@pytest.mark.parametrize("setting", OPTIONS, ids=lambda setting: setting.key)
def test_option_is_explained(setting: Setting) -> None:
    """By an entry of a definition list, which may be for several options."""
    terms = [line for line in lines_with(CONFIGURATION, f"``{setting.name}``") if not line.startswith(" ")]
    assert any(re.fullmatch(r"``[a-z-]+``(, ``[a-z-]+``)*", line) for line in terms)


@pytest.mark.parametrize("code", list(Code))
def test_code_is_documented(code: Code) -> None:
    assert lines_with("docs/wire.rst", f"``{code}``")


@pytest.mark.parametrize("name", frames.NAMES.values())
def test_frame_is_documented(name: str) -> None:
    assert lines_with("docs/wire.rst", name)


def test_documents_name_only_options_that_there_are() -> None:
    known = {setting.name for setting in OPTIONS} | FOREIGN | {"config"}
    for document in [*READMES, *sorted((ROOT / "docs").glob("*.rst"))]:
        named = set(re.findall(r"``--([a-z][a-z-]+)", document.read_text()))
        unknown = {name for name in named - known if not name.startswith("tls")}
        assert not unknown, f"{document.name}: {sorted(unknown)}"


def test_security_names_tests_that_there_are() -> None:
    named = re.findall(r"``(tests/[a-z_/]+\.py)(?:::(\w+))?``", (ROOT / "docs" / "security.rst").read_text())
    assert len(named) >= 10
    for file, test in named:
        wanted = rf"^ *(async )?def {test or 'test_.*'}\("
        assert re.search(wanted, (ROOT / file).read_text(), re.MULTILINE), (file, test)


def test_every_command_is_run_or_says_why_not() -> None:
    """By tests/nat/test_documents.py or test_recipes.py, on machines of its own."""
    known = named(STEPS)
    missing = {one.text: one.document for one in printed() if not one.why_not and one.text not in known}
    assert not missing


def test_every_file_is_written() -> None:
    """By the same tests, so nothing that is printed goes unused."""
    assert sorted(files()) == sorted({step.name for step in STEPS if isinstance(step, Write)})


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            "x::\n\n    rtunnel a \\\n        b\n    # on the other\n    X=1 twistd c\n",
            ["rtunnel a \\\n    b", "X=1 twistd c"],
        ),
        ("1. x::\n\n       rtunnel a\n\n   It says::\n\n       link: up\n", ["rtunnel a"]),
        ("x::\n\n    twistd -n: flag --a: is wrong\n\nx::\n\n    rtunnel-server\n", []),
    ],
)
def test_commands_of_a_document(content: str, found: list[str]) -> None:
    assert [one.text for one in commands_of("x", content)] == found
    not_run = commands_of("x", f".. not run: it is slow\n\n{content}")
    assert {one.why_not for one in not_run} == ({"it is slow"} if found else set())


def test_readme_is_short() -> None:
    assert len(READMES[0].read_text().splitlines()) <= 300


def test_readmes_have_the_same_commands() -> None:
    english, chinese = ([one for one in printed() if one.document == path.name] for path in READMES)
    assert len(english) > 10
    assert [(one.text, one.why_not) for one in english] == [(one.text, one.why_not) for one in chinese]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_readme_links_to_files_that_there_are(readme: Path) -> None:
    links = re.findall(r"<([^>:]+)>`__", readme.read_text())
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
