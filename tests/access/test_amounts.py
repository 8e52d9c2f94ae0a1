"""Bandwidths and amounts of data, as the settings have them."""

from __future__ import annotations

import pytest

from rtunnel.access.amounts import amount, amount_text, bandwidth
from rtunnel.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "bits"),
    [
        ("20Mbit", 20_000_000),
        ("20 Mbit/s", 20_000_000),
        ("20mbitps", 20_000_000),
        ("2.5MB/s", 20_000_000),
        ("1MiB", 8 * 1024 * 1024),
        ("1Mibit", 1024 * 1024),
        ("8kbit", 8_000),
        ("1Tbit", 10**12),
        (10_000_000, 10_000_000),
        ("10000000", 10_000_000),
        ("0.1Gbit", 100_000_000),
        (1e6, 1_000_000),
    ],
)
def test_bandwidths(written: object, bits: int) -> None:
    assert bandwidth(written) == bits


@pytest.mark.parametrize(
    "written",
    ["", "fast", "20M", "20Mb", "20Mb/s", "-1Mbit", "1,5Mbit", "20 M bit", "Mbit", True, None, [20], "1e9", "1" * 40],
)
def test_no_bandwidths(written: object) -> None:
    with pytest.raises(ConfigError, match=r"is not a bandwidth; write one such as 20Mbit or 2\.5MB/s"):
        bandwidth(written)


@pytest.mark.parametrize("written", ["7999bit", 0, "7.9kbit", "1.1Tbit", "999GB"])
def test_bandwidths_out_of_range(written: object) -> None:
    with pytest.raises(ConfigError, match="is out of range; write 8kbit to 1Tbit, such as 20Mbit"):
        bandwidth(written)


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("500GB", 500 * 10**9),
        ("1.5 TiB", 3 * 2**39),
        ("1MB", 10**6),
        (5_000_000, 5_000_000),
        ("1000000TB", 10**18),
        ("20mb", 20 * 10**6),
    ],
)
def test_amounts(written: object, count: int) -> None:
    assert amount(written) == count


@pytest.mark.parametrize("written", ["", "much", "500G", "500Gbit", "1GB/s", "-1GB", False, None, {}, "1e12"])
def test_no_amounts(written: object) -> None:
    with pytest.raises(ConfigError, match=r"is not an amount of data; write one such as 500GB or 1\.5TiB"):
        amount(written)


@pytest.mark.parametrize("written", [0, "999kB", "1000001TB"])
def test_amounts_out_of_range(written: object) -> None:
    with pytest.raises(ConfigError, match="is out of range; write 1MB to 1000000TB, such as 500GB"):
        amount(written)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_949, "999.9 kB"),
        (999_999, "1 MB"),
        (1_500_000, "1.5 MB"),
        (400 * 10**9, "400 GB"),
        (1_234_567_890, "1.235 GB"),
        (10**18, "1,000,000 TB"),
    ],
)
def test_texts(count: int, text: str) -> None:
    assert amount_text(count) == text
