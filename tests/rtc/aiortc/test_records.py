"""DTLS records in batches, without sockets."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from aiortc.rtcdtlstransport import SRTP_PROFILES, generate_certificate
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, strategies as st
from OpenSSL import SSL

from rtunnel.relay.udp.segments import MAX_BYTES, MAX_SEGMENTS
from rtunnel.rtc.aiortc.dtls import CIPHER_SUITES, MAX_RECORD, Certificate
from rtunnel.rtc.aiortc.records import Records

AEAD = ("GCM", "CHACHA20", "CCM")


def connect(suite: str) -> tuple[Records, Records]:
    """Two ends that agree on a suite."""
    key: Any = (
        ec.generate_private_key(ec.SECP256R1()) if "ECDSA" in suite else rsa.generate_private_key(65537, key_size=2048)
    )
    ends = []
    for _ in range(2):
        context = Certificate(key, generate_certificate(key))._create_ssl_context(SRTP_PROFILES)
        context.set_cipher_list(suite.encode())
        ends.append(SSL.Connection(context))
    one, two = ends
    one.set_connect_state()
    two.set_accept_state()
    for _ in range(4):
        for end, other in ((one, two), (two, one)):
            with suppress(SSL.WantReadError):
                end.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(end.bio_read(10_000))
    assert one.get_cipher_name() == two.get_cipher_name() == suite
    return Records(one), Records(two)


@pytest.fixture(scope="module")
def pair() -> tuple[Records, Records]:
    return connect(CIPHER_SUITES[0])


def through(one: Records, two: Records, packets: list[bytes]) -> list[bytes]:
    """What arrives, with the rules of a batch checked."""
    arrived: list[bytes] = []
    for data, segment in one.encrypt(packets):
        assert len(data) <= max(MAX_BYTES, segment)
        assert len(data) <= MAX_SEGMENTS * segment
        two.decrypt(memoryview(data), segment, arrived)
    return arrived


@pytest.mark.parametrize("suite", CIPHER_SUITES)
def test_every_cipher_suite(suite: str) -> None:
    one, two = connect(suite)
    for size in (1, 15, 16, 17, 1191, MAX_RECORD):
        packet = bytes(size)
        [(record, segment)] = one.encrypt([packet])
        assert len(record) == segment <= size + one.overhead
        if any(kind in suite for kind in AEAD):
            assert segment == size + one.overhead
        arrived: list[bytes] = []
        two.decrypt(memoryview(record), segment, arrived)
        assert arrived == [packet]
    # The most that padding takes.
    assert max(len(one.encrypt([bytes(size)])[0][0]) - size for size in range(100, 116)) == one.overhead
    packets = [bytes([number]) * size for number, size in enumerate([1191] * 70 + [1180, 1192, 1191, 1175, 3, 4, 4, 3])]
    assert through(one, two, packets) == packets


@given(sizes=st.lists(st.sampled_from([1, 2, 60, 1191, 1200, 8000, MAX_RECORD]) | st.integers(1, 2000), max_size=150))
def test_packets_of_any_sizes(pair: tuple[Records, Records], sizes: list[int]) -> None:
    packets = [number.to_bytes(2) * (size // 2) + b"x" * (size % 2) for number, size in enumerate(sizes)]
    assert through(*pair, packets) == packets


def test_packets_of_one_size_are_one_batch(pair: tuple[Records, Records]) -> None:
    one, _ = pair
    assert len(one.encrypt([bytes(900)] * 64)) == 1
    assert len(one.encrypt([bytes(900)] * 65)) == 2
    # Also where the last is smaller.
    assert len(one.encrypt([bytes(900)] * 63 + [bytes(20)])) == 1
    assert len(one.encrypt([bytes(900)] * 62 + [bytes(20), bytes(900)])) == 2


@given(segment=st.sampled_from([50, 1228, 16_421]), data=st.binary(min_size=1, max_size=3000))
def test_garbage_is_skipped(pair: tuple[Records, Records], segment: int, data: bytes) -> None:
    one, two = pair
    arrived: list[bytes] = []
    two.decrypt(memoryview(data), segment, arrived)
    assert arrived == []
    assert through(one, two, [b"x"]) == [b"x"]


def test_both_ends_close(pair: tuple[Records, Records]) -> None:
    one, two = connect(CIPHER_SUITES[0])
    [(data, _)] = one.encrypt([b"last"])
    data += one.close()
    arrived: list[bytes] = []
    with pytest.raises(ConnectionError):
        two.decrypt(memoryview(data), len(data), arrived)
    assert arrived == [b"last"]
    assert two.close()
    with pytest.raises(ConnectionError):
        two.encrypt([b"x"])
    with pytest.raises(ConnectionError):
        one.encrypt([b"x"])
