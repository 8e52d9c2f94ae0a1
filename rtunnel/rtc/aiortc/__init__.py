"""ICE and DTLS on aiortc and aioice. Only this folder imports them.

Processes of our own import aiortc without what data channels do not need: ``av``, its codecs for audio and video (104
MB on the disk, 15 of memory), ``pylibsrtp`` (5 of memory) and, for aioice's own lookup of names in ``.local``, ``dns``
(2 of memory). aiortc imports them in any case. While :func:`import_without_codecs` imports aiortc, all that it takes
from them is a class that cannot be used; afterwards they can be imported as ever. A later version may take other
things. That does no harm as long as they are only named when aiortc is imported: in annotations, as base classes, to
make constants.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: The packages that are left out.
LEFT_OUT = ("av", "pylibsrtp", "dns")


class NoMedia(RuntimeError):
    """Something asked aiortc for what is left out, in a process that has imported it for data channels only."""


class _UnusableType(type):
    #: While aiortc is imported: it makes constants.
    can_be_called = False

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __call__(cls, *arguments: object, **named: object) -> Any:
        if not _UnusableType.can_be_called:
            raise NoMedia("rtunnel has imported aiortc without audio and video here; import aiortc before rtunnel does")
        return cls

    def __or__(cls, other: object) -> Any:
        return cls


class _Unusable(metaclass=_UnusableType):
    """Stands for each class, each function, and each constant."""


class _Finder(MetaPathFinder, Loader):
    """Finds the packages, and every module in them."""

    def __init__(self, packages: Collection[str]) -> None:
        self._packages = packages

    def stands_for(self, name: str) -> bool:
        """Return whether the module of this name is left out."""
        return name.partition(".")[0] in self._packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if self.stands_for(fullname) else None

    def exec_module(self, module: ModuleType) -> None:
        def get(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return _Unusable

        module.__getattr__ = get  # type: ignore[method-assign]


def import_without_codecs() -> None:
    """Import aiortc without :data:`LEFT_OUT`, except those of them that have been imported already.

    Whoever wants audio or video in the same process has to import aiortc or ``av`` before; then nothing is left out.
    """
    if "aiortc" in sys.modules or LEFT_OUT[0] in sys.modules:
        return
    finder = _Finder([name for name in LEFT_OUT if name not in sys.modules])
    sys.meta_path.insert(0, finder)
    _UnusableType.can_be_called = True
    try:
        import_module("aiortc")
    finally:
        _UnusableType.can_be_called = False
        sys.meta_path.remove(finder)
        for name in [each for each in sys.modules if finder.stands_for(each)]:
            del sys.modules[name]
