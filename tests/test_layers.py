"""The layers hold: what each room may import is listed here, read from the source, and shown in docs/architecture.rst.

A room may import what its line in ``MAY_IMPORT`` names and nothing else of the package, and no circle of imports may
arise, imports under ``TYPE_CHECKING`` included. The promises of each room (no reactor in ``wire``, aiortc in one
folder, the global reactor only in ``options``) are kept by not importing what would break them.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rtunnel"
PLUGINS = ROOT / "twisted" / "plugins"

SHARED = {
    "_version",
    "addresses",
    "coercions",
    "config_file",
    "delayed_calls",
    "endpoint_strings",
    "errors",
    "host_names",
    "name_endpoint",
    "names",
    "proxies",
    "reasons",
    "trusted_files",
    "yaml_file",
}
"""Modules beside the rooms."""

MAY_IMPORT: dict[str, set[str]] = {
    "wire": {"errors"},
    "relay": {"delayed_calls", "errors", "reasons"},
    "pki": SHARED,
    "traffic": {"errors", "relay"},
    "upkeep": {"wire", "relay", "traffic", *SHARED},
    "shaping": {"relay", "upkeep", *SHARED},
    "services": {"wire", "relay", "traffic", "upkeep", *SHARED},
    "tls": {"wire", "relay", "pki", "upkeep", *SHARED},
    "access": {"relay", "pki", "upkeep", "tls", *SHARED},
    "cluster": {"relay", "pki", "upkeep", "tls", *SHARED},
    "acme": {"pki", "tls", "upkeep", *SHARED},
    "reverse": {
        "wire",
        "relay",
        "traffic",
        "tls",
        "access",
        "acme",
        "cluster",
        "upkeep",
        "shaping",
        "services",
        *SHARED,
    },
    "rtc": {"wire", "relay", "traffic", "tls", "access", "cluster", "upkeep", "shaping", "services", *SHARED},
    "control": {
        "wire",
        "relay",
        "acme",
        "cluster",
        "tls",
        "traffic",
        "upkeep",
        "services",
        "reverse",
        "rtc",
        "__init__",
        *SHARED,
    },
    "doctor": {"wire", "relay", "pki", "cluster", "tls", "upkeep", "services", "reverse", "rtc", "control", *SHARED},
    "options": {
        *(
            "wire",
            "relay",
            "traffic",
            "pki",
            "tls",
            "access",
            "acme",
            "cluster",
            "upkeep",
            "services",
            "reverse",
            "rtc",
        ),
        *("control", "doctor"),
        *SHARED,
    },
    "testing": {"relay"},
    "__init__": {"_version"},
    "__main__": {"options"},
    **dict.fromkeys(SHARED, SHARED),
}
"""What each room, and each module beside the rooms, may import of the package."""

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
    "twisted.internet.reactor": "rtunnel.options",
    "aiortc": "rtunnel.rtc.aiortc",
    "aioice": "rtunnel.rtc.aiortc",
    "autobahn": "rtunnel.rtc.signaling",
    "acme": "rtunnel.acme.authority",
    "txredisapi": "rtunnel.cluster",
    "josepy": "rtunnel.acme.authority",
    "requests": "rtunnel.acme.authority",
    # Both end at the first exception.
    "twisted.application.internet.TimerService": "rtunnel.upkeep.periodic",
    "twisted.internet.task.LoopingCall": "rtunnel.upkeep.periodic",
}
"""What only one folder may import."""

LONGEST = 400
"""Lines of a module."""
MOST_FILES = 16
"""Files of a folder."""


@cache
def statements(source: str) -> list[ast.AST]:
    """Everything in a module's source that imports. Most modules are looked at twice."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports_of(path: Path) -> Iterator[str]:
    """The full dotted names that a module imports, wherever in the module it does: ``from a import b`` is ``a.b``."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in statements(path.read_text()):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def name_of(path: Path) -> str:
    """The dotted name of a module; a package's is that of its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(path: Path) -> str:
    """The room of a module; for a module beside the rooms, its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def problems(path: Path) -> Iterator[str]:
    """One line for each import that does not belong there."""
    room = room_of(path)
    for name in imports_of(path):
        if within(name, "rtunnel") and name != "rtunnel.__version__":
            other = name.split(".")[1]
            if other != room and other not in MAY_IMPORT[room]:
                yield f"{room} may not import {other}, and imports {name}"
        yield from (f"{room} must not import {name}" for module in FORBIDDEN.get(room, ()) if within(name, module))
        for module, only in ONLY_IN.items():
            if within(name, module) and not within(name_of(path), only):
                yield f"{name_of(path)} imports {name}, which only {only} may"


def graph(paths: list[Path]) -> dict[str, set[str]]:
    """Which modules each module imports."""
    names = {name_of(path) for path in paths}

    def module_of(name: str) -> str:
        return name if name in names else name.rpartition(".")[0]

    return {name_of(path): {module_of(name) for name in imports_of(path)} & names - {name_of(path)} for path in paths}


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """The modules of one circle of imports, the first named again at the end; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


MODULES = sorted(PACKAGE.rglob("*.py"))


def test_imports() -> None:
    assert [f"{name_of(path)}: {problem}" for path in MODULES for problem in problems(path)] == []


def test_length() -> None:
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_files_of_a_folder() -> None:
    files = Counter(str(path.parent.relative_to(ROOT)) for path in MODULES)
    assert {name: count for name, count in files.items() if count > MOST_FILES} == {}


def test_no_circle() -> None:
    assert circle(graph(MODULES)) == []


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
    ("module", "source", "complaint"),
    [
        ("wire.module", "from rtunnel.errors import PeerError\nimport struct", None),
        ("wire.module", "import time", "wire must not import time"),
        ("wire.module", "from twisted.internet import defer", "wire must not import twisted.internet.defer"),
        ("wire.module", "def late():\n    import threading", "wire must not import threading"),
        (
            "wire.module",
            "from ..reverse import server",
            "wire may not import reverse, and imports rtunnel.reverse.server",
        ),
        ("wire.module", "from rtunnel import config_file", "wire may not import config_file"),
        ("relay.module", "from rtunnel.wire import link", "relay may not import wire, and imports rtunnel.wire.link"),
        ("reverse.server.module", "from rtunnel.wire import link\nfrom ..carriers import mux", None),
        ("reverse.server.module", "from rtunnel.options import server", "reverse may not import options"),
        ("reverse.module", "from twisted.internet import reactor", "which only rtunnel.options may"),
        ("reverse.module", "import twisted.internet.reactor", "which only rtunnel.options may"),
        ("reverse.module", "from autobahn.twisted import websocket", "which only rtunnel.rtc.signaling may"),
        ("rtc.module", "from rtunnel.reverse import settings", "rtc may not import reverse"),
        ("rtc.module", "import aiortc", "which only rtunnel.rtc.aiortc may"),
        ("rtc.aiortc.module", "from aioice import Connection", None),
        ("wire.sctp.module", "import aiortc", "which only rtunnel.rtc.aiortc may"),
        ("wire.sctp.path.module", "import logging", "wire must not import logging"),
        ("options.plugins.module", "from twisted.internet import reactor\nfrom rtunnel.reverse import server", None),
        ("coercions", "from rtunnel.reverse import server", "coercions may not import reverse"),
    ],
)
def test_the_check_itself(
    module: str, source: str, complaint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path / "rtunnel")
    path = (tmp_path / "rtunnel" / module.replace(".", "/")).with_suffix(".py")
    path.parent.mkdir(parents=True)
    path.write_text(source)
    found = list(problems(path))
    assert len(found) == (complaint is not None)
    if complaint is not None:
        assert complaint in found[0]


def test_the_check_of_circles_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "one.py").write_text("import two")
    (tmp_path / "two.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from one import Name\n")
    (tmp_path / "three.py").write_text("import one, two")
    imports = graph(sorted(tmp_path.glob("*.py")))
    assert imports == {"one": {"two"}, "two": {"one"}, "three": {"one", "two"}}
    assert set(circle(imports)) == {"one", "two"}
    del imports["two"]
    assert circle(imports) == []


def test_every_room_is_in_the_wheel() -> None:
    """``find:`` would leave the plugins out, so ``setup.cfg`` lists the packages."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    folders = {path.parent for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "etc"}
    assert sorted(listed) == sorted([*(".".join(each.relative_to(ROOT).parts) for each in folders), "twisted.plugins"])
