"""Fingerprints that people read to each other: what is kept, and which typing errors are noticed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from rtunnel.access.peers.fingerprints import any_is_of, is_of, parse_fingerprint, show_fingerprint
from rtunnel.errors import ConfigError

digits = st.binary(min_size=32, max_size=32).map(bytes.hex)
LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


def test_known() -> None:
    """The form is for ever: people have written it down."""
    assert show_fingerprint("ab" * 32) == "nentq-axbne-ntqax-bnent-qaxbn-ent4f"
    assert show_fingerprint("0" * 64) == "00000-00000-00000-00000-00000-00000"


@given(digits)
def test_140_bits_are_kept(fingerprint: str) -> None:
    shown = show_fingerprint(fingerprint)
    assert re.fullmatch("([0-9a-hjkmnp-tv-z]{5}-){5}[0-9a-hjkmnp-tv-z]{5}", shown)
    assert parse_fingerprint(shown) == fingerprint[:35]
    assert is_of(parse_fingerprint(shown), fingerprint)


@given(digits, st.integers(0, 29), st.sampled_from(LETTERS))
def test_one_wrong_character_is_noticed_and_located(fingerprint: str, place: int, letter: str) -> None:
    right = show_fingerprint(fingerprint).replace("-", "")
    typed = right[:place] + letter + right[place + 1 :]
    if typed == right:
        return
    group = typed[place - place % 5 :][:5]
    with pytest.raises(ConfigError, match=f"has a typing error, perhaps in the group '{group}'; compare it again"):
        parse_fingerprint(typed)


@given(digits, st.lists(st.integers(0, 29), min_size=2, max_size=2, unique=True), st.data())
def test_two_wrong_characters_are_noticed(fingerprint: str, places: list[int], data: st.DataObject) -> None:
    typed = list(show_fingerprint(fingerprint).replace("-", ""))
    for place in places:
        typed[place] = data.draw(st.sampled_from(LETTERS.replace(typed[place], "")))
    with pytest.raises(ConfigError, match="has a typing error"):
        parse_fingerprint("".join(typed))


@given(digits, st.integers(0, 28))
def test_swapped_characters_are_noticed(fingerprint: str, place: int) -> None:
    typed = list(show_fingerprint(fingerprint).replace("-", ""))
    if typed[place] == typed[place + 1]:
        return
    typed[place], typed[place + 1] = typed[place + 1], typed[place]
    with pytest.raises(ConfigError, match="has a typing error"):
        parse_fingerprint("".join(typed))


@pytest.mark.parametrize(
    "written",
    [
        "ab" * 32,
        "AB" * 32,
        ":".join(["AB"] * 32),
        "sha256:" + "ab" * 32,
        "SHA-256=" + ":".join(["ab"] * 32),
    ],
)
def test_all_digits(written: str) -> None:
    assert parse_fingerprint(written) == "ab" * 32


@pytest.mark.parametrize(
    "written",
    [
        "NENTQ AXBNE NTQAX BNENT QAXBN ENT4F",
        "nentqaxbnentqaxbnentqaxbnent4f",
        " nentq-axbne-ntqax-bnent-qaxbn-ent4f\n",
    ],
)
def test_as_people_write_it(written: str) -> None:
    assert parse_fingerprint(written) == ("ab" * 32)[:35]


def test_letters_that_look_like_digits() -> None:
    zero = "00000-00000-00000-00000-00000-00000"
    assert parse_fingerprint(zero.replace("0", "o")) == "0" * 35
    one = show_fingerprint("08421" * 12 + "0842")
    assert "1" in one
    assert parse_fingerprint(one.replace("1", "l")) == parse_fingerprint(one.replace("1", "I")) == ("08421" * 7)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "'' is not a fingerprint: it has six groups of five"),
        ("hello!", "'hello!' is not a fingerprint: it has six groups of five characters, or 64 hexadecimal digits; "),
        ("nentq-axbne", "is not a fingerprint: it has 10 characters; it has six groups of five characters"),
        ("ab" * 31, "is not a fingerprint: it has 62 characters; it has six groups"),
        ("\N{ARABIC-INDIC DIGIT ONE}" * 30, "is not a fingerprint: it has six groups"),
        ("0" * 10**6, "is not a fingerprint: it has 200 characters"),
    ],
)
def test_no_fingerprint(written: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_fingerprint(written)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_too_few_digits_are_nobody() -> None:
    assert not is_of("ab", "ab" * 32)
    assert not is_of("", "ab" * 32)
    assert not any_is_of((), "ab" * 32)
    assert any_is_of(("cd" * 32, ("ab" * 32)[:35]), "ab" * 32)
    assert not any_is_of(("cd" * 32, ("ab" * 32)[:35]), "ab" * 17 + "b" + "ab" * 14 + "c")
