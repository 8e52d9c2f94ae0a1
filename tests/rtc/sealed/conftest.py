"""Pairs of ends that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.rtc.sealed.parts import Pair


@pytest.fixture
def make_pair() -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(*arguments: Any, **keywords: Any) -> Pair:
        made.append(Pair(*arguments, **keywords))
        return made[-1]

    yield make
    for pair in made:
        pair.close()
