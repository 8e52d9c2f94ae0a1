"""Who is meant by ``rtunnel disconnect``."""

from __future__ import annotations

from functools import partial

import pytest

from rtunnel.control.actions.disconnect import Connected, disconnect
from rtunnel.errors import ConfigError


def test_everybody_of_that_name_and_nobody_else() -> None:
    ended: list[int] = []
    names = [("a", "192.0.2.1:1"), ("a", "192.0.2.1:2"), ("b", "192.0.2.1:3")]
    act = disconnect(lambda: [Connected(each, partial(ended.append, n)) for n, each in enumerate(names)])
    assert act({"peer": "a"}) == {"disconnected": 2}
    assert act({"peer": "192.0.2.1:3"}) == {"disconnected": 1}
    assert ended == [0, 1, 2]


@pytest.mark.parametrize(
    ("peer", "names", "error"),
    [
        ("", ["a"], "'peer' is missing"),
        ("x", [], "nobody is connected as 'x'; nobody is connected at all"),
        ("x", ["a", "b", "b"], "nobody is connected as 'x'; connected: a, b"),
        ("laptpo", ["a", "laptop"], "nobody is connected as 'laptpo'; did you mean 'laptop'?"),
        ("x", [f"n{n}" for n in range(12)], f"; connected: {', '.join(f'n{n}' for n in range(10))} and 2 more"),
        ("\x1b[2J", ["\x1b[31m"], r"nobody is connected as '\x1b[2J'; connected: \x1b[31m"),
    ],
)
def test_mistakes(peer: str, names: list[str], error: str) -> None:
    act = disconnect(lambda: [Connected((name,), lambda: None) for name in names])
    with pytest.raises(ConfigError) as caught:
        act({"peer": peer})
    assert error in str(caught.value)
