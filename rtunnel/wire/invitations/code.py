"""The code of an invitation: what one person reads to the other (docs/wire.rst, "Invitations").

    7-guitarist-orca         a number, a word of three syllables, a word of two

The number says under which signaling ID the invitation is found. The two words are its secret: 16 bits, which are
enough only because nobody gets a second guess.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from rtunnel.errors import ConfigError
from rtunnel.wire.invitations.words import THREE_SYLLABLES, TWO_SYLLABLES

#: The signaling ID of an invitation is this and its number.
ID_PREFIX: Final = "rtunnel-invite-"
#: The highest number; people should not have to read longer ones.
MAX_NUMBER: Final = 9999
#: The longest text that is looked at, in characters.
MAX_TEXT: Final = 100

_LISTS: Final = (THREE_SYLLABLES, TWO_SYLLABLES)
#: How alike two words are, from 0 to 1, if one may be a typing error for the other.
_CLOSE = 0.7
#: The fewest letters that may stand for a word.
_PREFIX = 3


@dataclass(frozen=True, slots=True)
class InvitationCode:
    """A code.

    :ivar number: 1 to :data:`MAX_NUMBER`.
    :ivar words: one of each list, in lower case.
    """

    number: int
    words: tuple[str, str] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.number}-{'-'.join(self.words)}"

    @property
    def signaling_id(self) -> str:
        """The ID under which the host answers it."""
        return invitation_id(self.number)


def invitation_id(number: int) -> str:
    """Return the signaling ID of the invitation with this number."""
    return f"{ID_PREFIX}{number}"


def new_code(number: int) -> InvitationCode:
    """Return a code with this number and two words that nobody can foresee."""
    return InvitationCode(number, (secrets.choice(THREE_SYLLABLES), secrets.choice(TWO_SYLLABLES)))


def parse_code(text: str) -> InvitationCode:
    """Return the code that somebody has typed. Case does not matter, and dashes may be spaces.

    What is not a code is never tried: a typing error that gives no code costs no guess.

    :raises ConfigError: this is no code; the message says what is wrong with it, and what may be meant.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError(f"a code is a number and two words, such as 7-guitarist-orca, not {len(text)} characters")
    number, *words = [each for each in re.split(r"[\W_]+", text.casefold()) if each] or [""]
    if not re.fullmatch("[0-9]+", number):
        raise ConfigError(f"'{text}' is not a code: it must begin with a number, as in 7-guitarist-orca")
    if len(words) != 2:
        raise ConfigError(f"'{text}' is not a code: a code has two words after its number, as in 7-guitarist-orca")
    if not 1 <= int(number) <= MAX_NUMBER:
        raise ConfigError(f"'{text}' is not a code: its number must be from 1 to {MAX_NUMBER}")
    if words[0] in TWO_SYLLABLES and words[1] in THREE_SYLLABLES:
        raise ConfigError(
            f"'{text}' has its words in the wrong order; did you mean '{int(number)}-{words[1]}-{words[0]}'?"
        )
    for place, word in enumerate(words):
        if word not in _LISTS[place]:
            raise ConfigError(f"'{text}' is not a code: {_wrong(int(number), words, place)}")
    return InvitationCode(int(number), (words[0], words[1]))


def _wrong(number: int, words: Sequence[str], place: int) -> str:
    """Return what is wrong with a word, and which code may be meant."""
    meant = [word if word in known else _meant(word, known) for word, known in zip(words, _LISTS, strict=True)]
    which = ("first", "second")[place]
    if all(meant):
        return f"its {which} word is not '{words[place]}'; did you mean '{number}-{'-'.join(meant)}'?"
    if meant[place]:
        return f"its {which} word is not '{words[place]}'; did you mean '{meant[place]}'?"
    return f"no code has '{words[place]}' as its {which} word; ask how it is spelled"


def _meant(word: str, known: Sequence[str]) -> str:
    """Return the word of a list that may be meant; empty if it is none, or there are several."""
    longer = [each for each in known if each.startswith(word)] if len(word) >= _PREFIX else []
    if longer:
        return longer[0] if len(longer) == 1 else ""
    return next(iter(get_close_matches(word, known, 1, _CLOSE)), "")
