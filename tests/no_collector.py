"""What is over goes at once, and does not lie until the garbage collector comes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def no_collector() -> Iterator[None]:
    """Nothing is collected meanwhile, so only what is in no reference cycle goes."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Left:
    """Some objects; to be asked which of them are left.

    It does not hold them. Take care that the test does not either.
    """

    def __init__(self, things: Iterable[object]) -> None:
        self._things = [weakref.ref(thing) for thing in things]
        assert self._things

    def __call__(self) -> list[str]:
        return [repr(thing()) for thing in self._things if thing() is not None]
