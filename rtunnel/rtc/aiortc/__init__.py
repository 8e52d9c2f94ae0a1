"""ICE, DTLS and SCTP on aiortc and aioice. Only this folder imports them.

Processes of our own import aiortc without ``av``, its codecs for audio and video: 104 MB on the disk, 15 of memory, no
use to data channels. aiortc imports it whether or not there is media. While :func:`import_without_codecs` imports
aiortc, all that it takes from ``av`` is a class that cannot be used; afterwards ``av`` can be imported as ever. A later
version may take other things. That does no harm as long as they are only named when aiortc is imported (in annotations,
as base classes, as constants), and not called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: The package that is left out.
CODECS = "av"


class NoMedia(RuntimeError):
    """Something asked aiortc for audio or video in a process that has imported it for data channels only."""


class _UnusableType(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _Unusable(metaclass=_UnusableType):
    """Stands for each class, and for each constant of a class."""

    def __init__(self, *arguments: object, **named: object) -> None:
        raise NoMedia("rtunnel has imported aiortc without audio and video here; import aiortc before rtunnel does")


class _Finder(MetaPathFinder, Loader):
    """Finds the package, and every module in it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if _is_codecs(fullname) else None

    def exec_module(self, module: ModuleType) -> None:
        def get(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return _Unusable

        module.__getattr__ = get  # type: ignore[method-assign]


def _is_codecs(name: str) -> bool:
    return name.partition(".")[0] == CODECS


def import_without_codecs() -> None:
    """Import aiortc without ``av``; do nothing if either has been imported already.

    Whoever wants audio or video in the same process has to import aiortc before.
    """
    if "aiortc" in sys.modules or CODECS in sys.modules:
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        import_module("aiortc")
    finally:
        sys.meta_path.remove(finder)
        for name in [each for each in sys.modules if _is_codecs(each)]:
            del sys.modules[name]
