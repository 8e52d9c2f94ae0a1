"""Tokens are compared in constant time, and a Bearer token is wanted only where there is one."""

from __future__ import annotations

import pytest

from rtunnel.access.tokens import BearerTokens, Token, find_token, parse_tokens
from rtunnel.errors import ConfigError


@pytest.mark.parametrize("sent", ["token-a", "token-b", "token-c", "none of them"])
def test_every_token_is_compared(sent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(token: bytes, shown: bytes) -> bool:
        compared.append(token)
        return shown == token

    known = [Token.of(name, f"token-{name}") for name in "abc"]
    monkeypatch.setattr("hmac.compare_digest", compare)
    found = find_token(known, sent)
    assert (found.name if found is not None else None) == {"token-a": "a", "token-b": "b", "token-c": "c"}.get(sent)
    assert compared == [each.digest for each in known]
    compared.clear()
    assert BearerTokens(["token-a", "token-b", "token-c"]).allow(f"Bearer {sent}") == (sent != "none of them")
    assert compared == [each.digest for each in known]


def test_tokens() -> None:
    tokens = parse_tokens("laptop:correct-horse, battery-staple")
    assert [token.name for token in tokens] == ["laptop", ""]
    found = find_token(tokens, "battery-staple")
    assert found is tokens[1]
    for wrong in ("correct-hors", "correct-horsee", "", "laptop:correct-horse", "x" * 5000, "\ud800" * 10, None):
        assert find_token(tokens, wrong) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("laptop:", "entry 1 is empty"),
        ("correct-horse,a b c d e f", "entry 2 is not a token, which is one word of printable ASCII"),
        ("short", "entry 1 is not a token: it has 5 characters, and 8 to 1024 are allowed"),
        ("x" * 2000, "entry 1 is not a token: it has 2000 characters"),
        ("pässword-long", "entry 1 is not a token, which is one word of printable ASCII"),
        ("a:12345678,b:12345678", "entry 2 is a token that occurs twice"),
    ],
)
def test_wrong_tokens(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tokens(text)
    assert problem in str(caught.value)
    assert text not in str(caught.value)


def test_a_token_is_not_kept() -> None:
    assert b"correct-horse" not in Token.of("", "correct-horse").digest
    assert "digest" not in repr(Token.of("laptop", "correct-horse"))


@pytest.mark.parametrize(
    ("authorization", "is_let_in"),
    [
        ("Bearer a", True),
        ("bearer  b ", True),
        ("Bearer", False),
        ("Bearer ", False),
        ("Bearer c", False),
        ("Bearer a b", False),
        ("Basic a", False),
        ("a", False),
        ("Bearer \xe4", False),
        ("Bearer t\xc3\xb6ken", True),
        ("Bearer t\xf6ken", False),
        ("Bearer \u20ac", False),
        ("", False),
        (None, False),
    ],
)
def test_bearer_tokens(authorization: str | None, is_let_in: bool) -> None:
    tokens = BearerTokens(["a", "b", "töken"])
    assert tokens
    assert tokens.allow(authorization) == is_let_in


def test_without_tokens_nothing_is_asked_for() -> None:
    assert not BearerTokens([])
    for authorization in (None, "", "Bearer a", "nonsense"):
        assert BearerTokens([]).allow(authorization)
