"""Sealed messages: what a reliable channel takes in order and once, and an unreliable one in any order and once."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.data.seal import TAG, Cipher
from rtunnel.wire.webrtc.sealed_keys import Side, channel_keys
from rtunnel.wire.webrtc.sealed_messages import LONGER, Seals, channel_seals

MESSAGES = st.lists(st.tuples(st.binary(max_size=100), st.booleans()), max_size=20)


def pair(*, reliable: bool, ordinal: int = 0, cipher: Cipher = Cipher.AES_256_GCM) -> tuple[Seals, Seals]:
    """The client's seals of a channel, and the host's."""
    keys = channel_keys(bytes(range(32)), Side.CLIENT, ordinal)
    client, host = (channel_seals(keys, cipher, side, ordinal, reliable=reliable) for side in Side)
    return client, host


@given(MESSAGES, st.booleans(), st.sampled_from([Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305]))
def test_messages_arrive(messages: list[tuple[bytes, bool]], reliable: bool, cipher: Cipher) -> None:
    client, host = pair(reliable=reliable, cipher=cipher)
    for message, text in messages:
        sealed = client.seal(message, text=text)
        assert len(message) < len(sealed) <= len(message) + LONGER
        assert host.open(sealed, 0.0) == (message, text)
        assert client.open(host.seal(message[::-1], text=text), 0.0) == (message[::-1], text)


@given(st.permutations(range(6)))
def test_reliable_messages_have_an_order(order: list[int]) -> None:
    client, host = pair(reliable=True)
    sealed = [client.seal(b"%d" % number, text=False) for number in range(6)]
    for expected, number in enumerate(order):
        if number != expected:
            with pytest.raises(ValueError, match=r"^a record that is not authentic$"):
                host.open(sealed[number], 0.0)
            return
        assert host.open(sealed[number], 0.0) == (b"%d" % number, False)


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_datagrams_have_none(order: list[int], lost: set[int]) -> None:
    client, host = pair(reliable=False)
    sealed = [client.seal(b"%d" % number, text=False) for number in range(6)]
    for number in order:
        if number in lost:
            continue
        assert host.open(sealed[number], 0.0) == (b"%d" % number, False)
        with pytest.raises(ValueError, match=r"^a packet that has come before, or is too old$"):
            host.open(sealed[number], 0.0)


@given(st.binary(max_size=40), st.booleans(), st.data())
def test_what_was_changed_is_not_taken(message: bytes, reliable: bool, data: st.DataObject) -> None:
    client, host = pair(reliable=reliable)
    sealed = bytearray(client.seal(message, text=False))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match=r"^a (message|record|packet) "):
        host.open(bytes(sealed), 0.0)


@given(st.binary(max_size=80), st.booleans())
def test_noise(noise: bytes, reliable: bool) -> None:
    _, host = pair(reliable=reliable)
    with pytest.raises(ValueError, match=r"^(a|bytes) "):
        host.open(noise, 0.0)


@pytest.mark.parametrize("reliable", [True, False])
def test_a_cut_message(reliable: bool) -> None:
    client, host = pair(reliable=reliable)
    sealed = client.seal(b"message", text=True)
    for length in range(len(sealed)):
        _, host = pair(reliable=reliable)
        with pytest.raises(ValueError, match=r"^(a|bytes) "):
            host.open(sealed[:length], 0.0)


@pytest.mark.parametrize("reliable", [True, False])
def test_a_reflected_message(reliable: bool) -> None:
    client, _ = pair(reliable=reliable)
    with pytest.raises(ValueError, match="not authentic"):
        client.open(client.seal(b"message", text=False), 0.0)


@pytest.mark.parametrize("reliable", [True, False])
def test_a_message_of_another_channel(reliable: bool) -> None:
    client, _ = pair(reliable=reliable, ordinal=1)
    _, host = pair(reliable=reliable, ordinal=1 + 2**32)
    with pytest.raises(ValueError, match="not authentic"):
        host.open(client.seal(b"message", text=False), 0.0)


def test_a_kind_that_nobody_knows() -> None:
    client, host = pair(reliable=True)
    sealed = client.seal(b"message", text=False)
    with pytest.raises(ValueError, match=r"^a message that is neither binary nor text$"):
        host.open(b"\2" + sealed[1:], 0.0)
    with pytest.raises(ValueError, match=r"^a message that is too short to be sealed$"):
        host.open(bytes(TAG), 0.0)
