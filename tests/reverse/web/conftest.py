"""The fixtures of this folder."""

from __future__ import annotations

import pytest

from tests.reverse.web.parts import World


@pytest.fixture
def web() -> World:
    return World()
