"""How much: bandwidths such as ``20Mbit``, and amounts of data such as ``500GB``, as the settings have them.

Units of the field: ``k``, ``M``, ``G`` and ``T`` are powers of 1,000, and those with an ``i`` powers of 1,024.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rtunnel.coercions import shown
from rtunnel.errors import ConfigError

#: Bits a second.
LEAST_BANDWIDTH, MOST_BANDWIDTH = 8_000, 10**12
#: Bytes.
LEAST_AMOUNT, MOST_AMOUNT = 10**6, 10**18

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_AMOUNT = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?) ?(?:([kmgt]?)(i?)(bit|b))?((?:/s|ps)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much may pass. None: as much as there is.

    :ivar bandwidth: bits a second of all visitors together, in each direction.
    :ivar visitor_bandwidth: the same of one visitor.
    :ivar quota: bytes of all visitors in a calendar month (UTC), both directions together.
    """

    bandwidth: int | None = None
    visitor_bandwidth: int | None = None
    quota: int | None = None


def bandwidth(value: object) -> int:
    """Read a bandwidth, such as ``20Mbit``, ``2.5 MB/s``, or bits a second as a number.

    :returns: bits a second.
    :raises ConfigError: it is none, or out of bounds.
    """
    bits = _read(value, 8, 1, a_second=True)
    if bits is None:
        raise ConfigError(f"{shown(value)} is not a bandwidth; write one such as 20Mbit or 2.5MB/s")
    if not LEAST_BANDWIDTH <= bits <= MOST_BANDWIDTH:
        raise ConfigError(f"{shown(value)} is out of range; write 8kbit to 1Tbit, such as 20Mbit")
    return bits


def amount(value: object) -> int:
    """Read an amount of data, such as ``500GB``, ``1.5 TiB``, or bytes as a number.

    :returns: bytes.
    :raises ConfigError: it is none, or out of bounds.
    """
    count = _read(value, 1, None, a_second=False)
    if count is None:
        raise ConfigError(f"{shown(value)} is not an amount of data; write one such as 500GB or 1.5TiB")
    if not LEAST_AMOUNT <= count <= MOST_AMOUNT:
        raise ConfigError(f"{shown(value)} is out of range; write 1MB to 1000000TB, such as 500GB")
    return count


def amount_text(count: int) -> str:
    """Return an amount of data as texts show it, such as ``1.5 TB``.

    :param count: bytes.
    """
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        # What would be shown as 1,000 is shown in the next unit.
        if count * 100_000 >= size * 99_995:
            rounded = float(f"{count / size:.4g}")
            return f"{f'{rounded:,.3f}'.rstrip('0').rstrip('.')} {unit}"
    return f"{count} bytes"


def _read(value: object, per_byte: int, per_bit: int | None, *, a_second: bool) -> int | None:
    """Return how many units *value* is; None if it is none.

    :param per_byte: units of a byte.
    :param per_bit: units of a bit; None: bits are not taken.
    :param a_second: it may end with ``/s``.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    match = _AMOUNT.fullmatch(str(value).strip())
    if match is None:
        return None
    number, power, binary, unit, per_second = match.groups()
    if per_second and not a_second:
        return None
    each = 1 if unit is None else per_bit if unit.lower() == "bit" else per_byte
    if each is None or (unit is not None and per_bit is not None and unit == "b"):
        return None  # "Mb" may mean bits or bytes
    from decimal import Decimal

    return int(Decimal(number) * each * (1024 if binary else 1000) ** _POWERS[(power or "").lower()])
