"""The corpus of each target, whose bytes once broke something or reach much of a parser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def test_each_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(list(path.iterdir()) for path in CORPUS.iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    for path in sorted((CORPUS / name).iterdir()):
        print(path.name)
        TARGETS[name](path.read_bytes())
