"""Who may read the status port."""

from __future__ import annotations

from base64 import b64encode

import pytest

from rtunnel.control.guard import Guard

TOKEN = "a-secret"


@pytest.mark.parametrize(
    "host",
    [b"127.0.0.1:7070", b"127.0.0.1", b"localhost", b"LOCALHOST:7070", b"[::1]:7070", b"::1", b"192.0.2.7:80", None],
)
def test_without_a_token_this_machine_may_ask(host: bytes | None) -> None:
    assert Guard(None).why_not(host, None) == (0, "")


@pytest.mark.parametrize(
    "host", [b"evil.example", b"evil.example:7070", b"127.0.0.1.evil.example", b"localhost.", b"\xff"]
)
def test_a_name_that_a_stranger_may_have_chosen(host: bytes) -> None:
    code, why = Guard(None).why_not(host, None)
    assert code == 421
    assert "--status-token" in why


def basic(user: str, password: str) -> bytes:
    return b"Basic " + b64encode(f"{user}:{password}".encode())


@pytest.mark.parametrize("shown", [b"Bearer a-secret", b"bearer  a-secret ", basic("anybody", TOKEN), basic("", TOKEN)])
def test_with_the_token(shown: bytes) -> None:
    assert Guard(TOKEN).why_not(b"any.example", shown) == (0, "")


@pytest.mark.parametrize(
    "shown",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer a-secre",
        b"Bearer a-secret2",
        b"Digest a-secret",
        b"a-secret",
        b"Basic !!",
        b"Basic " + b64encode(b"a-secret"),
        basic(TOKEN, ""),
        basic("x", "a-secret2"),
    ],
)
def test_without_it(shown: bytes | None) -> None:
    code, why = Guard(TOKEN).why_not(b"127.0.0.1", shown)
    assert code == 401
    assert TOKEN not in why
