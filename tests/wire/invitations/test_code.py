"""The code of an invitation, and what people make of it when they type it."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import ConfigError
from rtunnel.wire.invitations.code import InvitationCode, new_code, parse_code
from rtunnel.wire.invitations.words import THREE_SYLLABLES, TWO_SYLLABLES

CODE = InvitationCode(7, ("guitarist", "orca"))
CODES = st.builds(
    InvitationCode, st.integers(1, 9999), st.tuples(st.sampled_from(THREE_SYLLABLES), st.sampled_from(TWO_SYLLABLES))
)


def test_the_list_is_that_of_pgpfone() -> None:
    assert (len(TWO_SYLLABLES), len(THREE_SYLLABLES)) == (256, 256)
    assert len({*TWO_SYLLABLES, *THREE_SYLLABLES}) == 512
    assert (TWO_SYLLABLES[0], THREE_SYLLABLES[0]) == ("aardvark", "adroitness")
    assert (TWO_SYLLABLES[0xE5], THREE_SYLLABLES[0x82]) == ("topmost", "istanbul")
    assert (TWO_SYLLABLES[255], THREE_SYLLABLES[255]) == ("zulu", "yucatan")
    words = " ".join((*TWO_SYLLABLES, *THREE_SYLLABLES))
    assert sha256(words.encode()).hexdigest() == "e732a7c847b5ceea625e50b7dbd670d080d4b681a606c8805d588ed1848653de"


def test_no_word_is_the_beginning_of_another() -> None:
    for words in (TWO_SYLLABLES, THREE_SYLLABLES):
        assert [(a, b) for a in words for b in words if a != b and b.startswith(a)] == []


@given(CODES)
def test_what_is_shown_is_read(code: InvitationCode) -> None:
    assert parse_code(str(code)) == code
    assert code.signaling_id == f"rtunnel-invite-{code.number}"
    assert not any(word in repr(code) for word in code.words)


@pytest.mark.parametrize(
    "text",
    [
        "7-guitarist-orca",
        "  7 Guitarist ORCA\n",
        "07-guitarist-orca",
        "7_guitarist_orca",
        "7 - guitarist - orca.",
        "7\N{EN DASH}guitarist\N{EM DASH}orca",
        "'7, guitarist, orca'",
    ],
)
def test_ways_to_write_it(text: str) -> None:
    assert parse_code(text) == CODE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is not a code: it must begin with a number, as in 7-guitarist-orca"),
        ("guitarist-orca", "'guitarist-orca' is not a code: it must begin with a number, as in 7-guitarist-orca"),
        ("7-guitarist", "'7-guitarist' is not a code: a code has two words after its number, as in 7-guitarist-orca"),
        ("7-a-b-c", "'7-a-b-c' is not a code: a code has two words after its number, as in 7-guitarist-orca"),
        ("0-guitarist-orca", "'0-guitarist-orca' is not a code: its number must be from 1 to 9999"),
        ("10000-guitarist-orca", "'10000-guitarist-orca' is not a code: its number must be from 1 to 9999"),
        ("7-orca-guitarist", "'7-orca-guitarist' has its words in the wrong order; did you mean '7-guitarist-orca'?"),
        ("7-guit-orca", "'7-guit-orca' is not a code: its first word is not 'guit'; did you mean '7-guitarist-orca'?"),
        (
            "7-guitarist-orka",
            ("'7-guitarist-orka' is not a code: its second word is not 'orka'; did you mean '7-guitarist-orca'?"),
        ),
        (
            "7-gitarrist-orka",
            ("'7-gitarrist-orka' is not a code: its first word is not 'gitarrist'; did you mean '7-guitarist-orca'?"),
        ),
        ("7-guit-xxx", "'7-guit-xxx' is not a code: its first word is not 'guit'; did you mean 'guitarist'?"),
        (
            "7-guitarist-xxx",
            ("'7-guitarist-xxx' is not a code: no code has 'xxx' as its second word; ask how it is spelled"),
        ),
        ("7-con-orca", "'7-con-orca' is not a code: no code has 'con' as its first word; ask how it is spelled"),
        ("x" * 101, "a code is a number and two words, such as 7-guitarist-orca, not 101 characters"),
    ],
)
def test_what_is_no_code(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_code(text)
    assert str(caught.value) == why


@given(st.text(max_size=120))
def test_whatever_is_typed(text: str) -> None:
    with suppress(ConfigError):
        parse_code(text)


@given(CODES, st.sampled_from([0, 1]), st.data())
def test_a_typing_error_is_never_another_code(code: InvitationCode, place: int, data: st.DataObject) -> None:
    """A letter more, less or else: there is no code, or a word that one letter really tells from the right one."""
    words = list(code.words)
    at = data.draw(st.integers(0, len(words[place]) - 1))
    new = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz") | st.just(""))
    words[place] = words[place][:at] + new + words[place][at + 1 :]
    try:
        found = parse_code(f"{code.number}-{'-'.join(words)}")
    except ConfigError:
        return
    assert found.words == tuple(words)


def test_new_codes() -> None:
    codes = [new_code(3) for _ in range(50)]
    assert {code.number for code in codes} == {3}
    assert len({code.words for code in codes}) > 40
    assert all(parse_code(str(code)) == code for code in codes)
