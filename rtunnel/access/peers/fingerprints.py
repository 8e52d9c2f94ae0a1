"""Fingerprints of identities, as people read them to each other: ``2mm1c-97635-...``, six groups of five.

28 characters carry the first 140 bits of the SHA-256 of a certificate, in Crockford's base32: no i, l, o or u, and who
types them means 1, 1, 0 and v. Two more are a Reed-Solomon code over GF(32), so that one or two wrong characters are
always noticed, and two that were swapped; where only one is wrong, it is known which.

    c[0] + c[1] + ... + c[29] = 0        c[0] + c[1] a + ... + c[29] a^29 = 0        (a is a root of x^5 + x^2 + 1)

140 bits are more than anybody can search for, also with a quantum computer. Files and options take all 64 digits too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rtunnel.coercions import shown
from rtunnel.errors import ConfigError

#: Hexadecimal digits of a whole fingerprint, and those that its short form keeps.
DIGITS, SHORT = 64, 35

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_READ_AS = str.maketrans("ilou", "110v")
_GROUP = 5
_LENGTH, _DATA = 30, 28
_FORM = f"it has six groups of five characters, or {DIGITS} hexadecimal digits; 'rtunnel id' prints it"

_POWERS = [1]
for _ in range(30):
    _doubled = _POWERS[-1] << 1
    _POWERS.append(_doubled ^ 0x25 if _doubled & 32 else _doubled)
_LOGARITHMS = {power: exponent for exponent, power in enumerate(_POWERS)}


def _times(one: int, other: int) -> int:
    return _POWERS[(_LOGARITHMS[one] + _LOGARITHMS[other]) % 31] if one and other else 0


def _syndromes(symbols: Sequence[int]) -> tuple[int, int]:
    total = weighted = 0
    for position, symbol in enumerate(symbols):
        total ^= symbol
        weighted ^= _times(symbol, _POWERS[position])
    return total, weighted


def show_fingerprint(digits: str) -> str:
    """Return a fingerprint in its short form.

    :param digits: its hexadecimal digits, at least :data:`SHORT`.
    """
    number = int(digits[:SHORT], 16)
    symbols = [number >> 5 * (_DATA - 1 - position) & 31 for position in range(_DATA)]
    total, weighted = _syndromes(symbols)
    # Two unknowns at the places 28 and 29: x + y = total, x a^28 + y a^29 = weighted.
    divisor = _POWERS[_DATA] ^ _POWERS[_DATA + 1]
    last = _times(weighted ^ _times(total, _POWERS[_DATA]), _POWERS[-_LOGARITHMS[divisor] % 31])
    text = "".join(_ALPHABET[symbol] for symbol in (*symbols, total ^ last, last))
    return "-".join(text[start : start + _GROUP] for start in range(0, _LENGTH, _GROUP))


def parse_fingerprint(text: str) -> str:
    """Read a fingerprint, in its short form or in all its hexadecimal digits, with or without colons.

    :returns: :data:`SHORT` or :data:`DIGITS` hexadecimal digits; see :func:`is_of`.
    :raises ConfigError: it is none. If one character is wrong, the message says which group has it.
    """
    plain = re.sub(r"[\s:-]", "", re.sub(r"^\s*sha-?256[:=]", "", text[:200].lower()))
    if re.fullmatch(f"[0-9a-f]{{{DIGITS}}}", plain):
        return plain
    typed = plain.translate(_READ_AS)
    if not re.fullmatch(f"[{_ALPHABET}]+", typed):
        raise ConfigError(f"{shown(text)} is not a fingerprint: {_FORM}")
    if len(typed) != _LENGTH:
        raise ConfigError(f"{shown(text)} is not a fingerprint: it has {len(typed)} characters; {_FORM}")
    symbols = [_ALPHABET.index(letter) for letter in typed]
    total, weighted = _syndromes(symbols)
    if total or weighted:
        raise ConfigError(f"{shown(text)} has a typing error{_where(typed, total, weighted)}; compare it again")
    number = 0
    for symbol in symbols[:_DATA]:
        number = number << 5 | symbol
    return f"{number:0{SHORT}x}"


def _where(typed: str, total: int, weighted: int) -> str:
    if not total or not weighted:
        return ""
    place = (_LOGARITHMS[weighted] - _LOGARITHMS[total]) % 31
    if place >= _LENGTH:
        return ""
    start = place - place % _GROUP
    return f", perhaps in the group '{typed[start : start + _GROUP]}'"


def is_of(known: str, fingerprint: str) -> bool:
    """Return whether *known*, from :func:`parse_fingerprint`, is a *fingerprint*, which has all its digits."""
    return len(known) >= SHORT and fingerprint.startswith(known)


def any_is_of(known: Iterable[str], fingerprint: str) -> bool:
    """Return whether one of *known* is; see :func:`is_of`."""
    return any(is_of(each, fingerprint) for each in known)
