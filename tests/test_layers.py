"""The layers hold: which room imports what is read from the source, and compared with docs/architecture.rst.

A room may import the rooms above it, never one below; and the promises of each room (no reactor in ``wire``, no
protocol in ``relay``, the global reactor only in ``options``) are kept by not importing what would break them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rtunnel"
PLUGINS = ROOT / "twisted" / "plugins"

ROOMS = ["wire", "relay", "security", "services", "reverse", "rtc", "options"]
"""From the top, which knows nothing, to the bottom, which composes all."""

FOR_ALL = {"_version", "errors"}
"""Modules beside the rooms that every room may import; the others are not for ``wire`` and ``relay``."""

FORBIDDEN = {
    "wire": [
        "twisted.internet",
        "twisted.logger",
        "twisted.python.log",
        "asyncio",
        "logging",
        "selectors",
        "socket",
        "ssl",
        "threading",
        "time",
    ],
}
"""What a room must not import from outside the package."""

ONLY_IN = {
    "twisted.internet.reactor": "options",
    "aiortc": "rtc",
    "aioice": "rtc",
    "autobahn": "rtc",
}
"""What only one room may import."""

LONGEST = 500
"""Lines of a module."""


def imports_of(path: Path) -> Iterator[str]:
    """The full dotted names that a module imports, wherever in the module it does: ``from a import b`` is ``a.b``."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def room_of(path: Path) -> str:
    """The room of a module; for a module beside the rooms, its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def problems(path: Path) -> Iterator[str]:
    """One line for each import that does not belong there."""
    room = room_of(path)
    for name in imports_of(path):
        if within(name, "rtunnel") and name != "rtunnel.__version__":
            other = name.split(".")[1]
            if other not in ROOMS:
                if room in ("wire", "relay") and other not in FOR_ALL:
                    yield f"{room} imports {name}, which is not for it"
            elif room not in ROOMS:
                if room not in ("testing", "__init__", "__main__"):
                    yield f"{room} is shared by the rooms, and imports one of them: {name}"
            elif ROOMS.index(other) > ROOMS.index(room):
                yield f"{room} is above {other}, and imports {name}"
            elif room == "relay" and other == "wire":
                yield f"relay must not know which protocol carries its bytes, and imports {name}"
        yield from (f"{room} must not import {name}" for module in FORBIDDEN.get(room, ()) if within(name, module))
        for module, only in ONLY_IN.items():
            if within(name, module) and room != only:
                yield f"{room} imports {name}, which only {only} may"


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    assert list(problems(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_length(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", sorted(PLUGINS.glob("*.py")), ids=lambda path: path.name)
def test_plugins_are_service_makers_only(path: Path) -> None:
    docstring, the_import, *makers = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(the_import) == "from twisted.application.service import ServiceMaker"
    assert makers
    for maker in makers:
        assert isinstance(maker, ast.Assign), ast.unparse(maker)
        assert isinstance(maker.value, ast.Call), ast.unparse(maker)
        assert ast.unparse(maker.value.func) == "ServiceMaker"
        assert all(isinstance(argument, ast.Constant) for argument in maker.value.args), ast.unparse(maker)


def test_plugins_are_in_a_namespace_folder() -> None:
    assert not list((ROOT / "twisted").rglob("__init__.py"))


@pytest.mark.parametrize(
    ("room", "source", "complaint"),
    [
        ("wire", "from rtunnel.errors import PeerError\nimport struct", None),
        ("wire", "import time", "wire must not import time"),
        ("wire", "from twisted.internet import defer", "wire must not import twisted.internet.defer"),
        ("wire", "def late():\n    import asyncio.events", "wire must not import asyncio.events"),
        ("wire", "from ..reverse import server", "wire is above reverse, and imports rtunnel.reverse.server"),
        ("wire", "from rtunnel import config", "wire imports rtunnel.config, which is not for it"),
        ("relay", "from rtunnel.wire import link", "relay must not know which protocol carries its bytes"),
        ("reverse", "from rtunnel.wire import link\nfrom . import ports", None),
        ("reverse", "from rtunnel.options import server", "reverse is above options"),
        ("reverse", "from twisted.internet import reactor", "which only options may"),
        ("reverse", "import twisted.internet.reactor", "which only options may"),
        ("reverse", "from autobahn.twisted import websocket", "which only rtc may"),
        ("options", "from twisted.internet import reactor\nfrom rtunnel.reverse import server", None),
        ("config", "from rtunnel.reverse import server", "config is shared by the rooms"),
    ],
)
def test_the_check_itself(
    room: str, source: str, complaint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path / "rtunnel")
    path = tmp_path / "rtunnel" / room / "module.py" if room in ROOMS else tmp_path / "rtunnel" / f"{room}.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    found = list(problems(path))
    assert len(found) == (complaint is not None)
    if complaint is not None:
        assert complaint in found[0]
