"""When a certificate is renewed, and how long a failure is waited for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from rtunnel.acme.renewal import DAY, LONGEST_ASKED, Attempts, renewal_time

KEY = ec.generate_private_key(ec.SECP256R1())
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def certificate(days: float, serial: int = 1000) -> x509.Certificate:
    name = x509.Name([])
    return (
        x509.CertificateBuilder(name, name, KEY.public_key(), serial)
        .not_valid_before(BEGIN)
        .not_valid_after(BEGIN + timedelta(days=days))
        .sign(KEY, SHA256())
    )


@pytest.mark.parametrize(("days", "ahead"), [(90, 30), (200, 30), (45, 15), (6, 2), (0.25, 1 / 12)])
def test_a_month_ahead_or_a_third(days: float, ahead: float) -> None:
    end = BEGIN.timestamp() + days * DAY
    assert renewal_time(certificate(days)) == pytest.approx(end - ahead * DAY, abs=1)
    latest = end - ahead * DAY * 1.1
    times = [renewal_time(certificate(days, serial)) for serial in range(1000, 2000)]
    assert latest - 1 <= min(times) < latest + 0.01 * ahead * DAY
    assert len(set(times)) == 1000


def test_waits_grow_from_minutes_to_a_day() -> None:
    attempts, waits = Attempts(), []
    for _ in range(40):
        attempts = attempts.failed(0.0)
        waits.append(attempts.not_before)
    assert 240 <= waits[0] <= 360
    assert 480 <= waits[1] <= 720
    assert all(0.8 * DAY <= wait <= 1.2 * DAY for wait in waits[9:])


def test_a_ca_that_does_not_answer_is_tried_sooner() -> None:
    attempts, waits = Attempts(), []
    for _ in range(40):
        attempts = attempts.failed(100.0, is_reached=False)
        waits.append(attempts.not_before - 100.0)
    assert 4 <= waits[0] <= 6
    assert all(2880 <= wait <= 4320 for wait in waits[11:])


def test_a_ca_says_how_long_to_wait_but_not_for_ever() -> None:
    assert Attempts().failed(50.0, 100_000.0).not_before == 100_050.0
    assert Attempts().failed(0.0, 1e12).not_before == LONGEST_ASKED
    assert Attempts(20).failed(0.0, 10.0).not_before > 0.8 * DAY


def test_kept_and_read_again() -> None:
    attempts = Attempts(3, 1000.5)
    assert Attempts.decode(attempts.encode(), 0.0) == attempts


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"3",
        b"{}",
        b'{"failures": -1, "not_before": 1}',
        b'{"failures": 1, "not_before": 1e300}',
        b'{"failures": 1, "not_before": NaN}',
        b'{"failures": 1e999, "not_before": 1}',
        b'{"failures": null, "not_before": 1}',
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_is_as_if_there_were_no_file(content: bytes) -> None:
    assert Attempts.decode(content, 1000.0) == Attempts()
