"""SPAKE2 and the confirmation of what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from hmac import digest

import pytest
import spake2
from hypothesis import given, strategies as st

from rtunnel.wire.invitations.code import InvitationCode
from rtunnel.wire.invitations.exchange import CLIENT, CONFIRM, HOST, MESSAGE, BadExchange, Half, is_point

CODE = InvitationCode(7, ("guitarist", "orca"))
OTHER = InvitationCode(7, ("guitarist", "orlando"))
CONTEXT = bytes(range(128))
# Neutral element, points of small order, not on the curve, too large; all with the side of a host.
BAD_POINTS = [
    b"\1" + bytes(31),
    bytes(32),
    (2**255 - 20).to_bytes(32, "little"),
    b"\2" + bytes(31),
    b"\xff" * 32,
]


def fixed_bytes(seed: bytes) -> Callable[[int], bytes]:
    """What the package's own test vectors are made with."""

    def produced() -> Iterator[int]:
        for number in range(1000):
            yield from sha256(b"prng-%d-%s" % (number, seed)).digest()

    stream = produced()
    return lambda count: bytes(next(stream) for _ in range(count))


def test_known_answers_of_the_package() -> None:
    """Those of its tests/test_compat.py, which other implementations take over: a change would part two versions."""
    a = spake2.SPAKE2_A(b"password", entropy_f=fixed_bytes(b"A"))
    b = spake2.SPAKE2_B(b"password", entropy_f=fixed_bytes(b"B"))
    assert a.start().hex() == "416fc960df73c9cf8ed7198b0c9534e2e96a5984bfc5edc023fd24dacf371f2af9"
    assert b.start().hex() == "42354e97b88406922b1df4bea1d7870f17aed3dba7c720b313edae315b00959309"
    key = "a480bca13fa04464bb644f10e340125e96c9494f7399fef7c2bda67eb0fdf06d"
    assert a.finish(b"B" + b.outbound_message).hex() == key
    assert b.finish(b"A" + a.outbound_message).hex() == key


def test_known_answers_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages, key and confirmations of this code are these in all versions."""
    monkeypatch.setattr(spake2, "SPAKE2_A", partial(spake2.SPAKE2_A, entropy_f=fixed_bytes(b"A")))
    monkeypatch.setattr(spake2, "SPAKE2_B", partial(spake2.SPAKE2_B, entropy_f=fixed_bytes(b"B")))
    client, host = Half(CODE, CLIENT), Half(CODE, HOST)
    assert client.message.hex() == "4107ab89591dd3242601f8ae22f2664d21bb4f1900ca72593aad03b572921f9d61"
    assert host.message.hex() == "420f15c9abcb806df3cd2c91de20b1d57ae1612514e4e7a717b05fefdf227f9809"
    confirmation = client.finish(host.message, "cottage")
    assert confirmation.key.hex() == "ef888f0c2006431260c47ad799743b78132f1176635843cf73bc8ea770f9911b"
    assert confirmation.mine(CONTEXT).hex() == digest(confirmation.key, b"client" + CONTEXT, "sha256").hex()
    assert host.finish(client.message, "cottage").key == confirmation.key


def test_the_same_code_is_confirmed_both_ways() -> None:
    client, host = Half(CODE, CLIENT), Half(CODE, HOST)
    assert len(client.message) == len(host.message) == MESSAGE
    at_client, at_host = client.finish(host.message, "cottage"), host.finish(client.message, "cottage")
    assert at_host.check(at_client.mine(CONTEXT), CONTEXT)
    assert at_client.check(at_host.mine(CONTEXT), CONTEXT)
    assert len(at_client.mine(CONTEXT)) == CONFIRM
    assert at_client.key.hex() not in repr(at_client)
    # Not reflected, not for another connection, not cut.
    assert not at_host.check(at_host.mine(CONTEXT), CONTEXT)
    assert not at_client.check(at_client.mine(CONTEXT), CONTEXT)
    assert not at_host.check(at_client.mine(CONTEXT), CONTEXT[::-1])
    assert not at_host.check(at_client.mine(CONTEXT)[:-1], CONTEXT)
    assert not at_host.check(b"", CONTEXT)


@pytest.mark.parametrize(
    ("code", "host_id"),
    [(OTHER, "cottage"), (InvitationCode(8, CODE.words), "cottage"), (CODE, "castle")],
    ids=["words", "number", "host"],
)
def test_anything_else_is_another_key(code: InvitationCode, host_id: str) -> None:
    client, host = Half(code, CLIENT), Half(CODE, HOST)
    at_client, at_host = client.finish(host.message, host_id), host.finish(client.message, "cottage")
    assert not at_host.check(at_client.mine(CONTEXT), CONTEXT)
    assert not at_client.check(at_host.mine(CONTEXT), CONTEXT)


def test_each_exchange_is_another_one() -> None:
    assert len({Half(CODE, HOST).message for _ in range(3)}) == 3


@pytest.mark.parametrize("point", BAD_POINTS, ids=lambda point: point.hex()[:4])
def test_bad_points(point: bytes) -> None:
    assert not is_point(b"B" + point, HOST)
    with pytest.raises(BadExchange):
        Half(CODE, CLIENT).finish(b"B" + point, "cottage")


def test_reflected_and_repeated() -> None:
    client, host = Half(CODE, CLIENT), Half(CODE, HOST)
    own = client.message
    assert is_point(own, CLIENT)
    assert is_point(host.message, HOST)
    assert not is_point(own, HOST)
    with pytest.raises(BadExchange):
        client.finish(own, "cottage")
    with pytest.raises(BadExchange, match="a second message"):
        client.finish(host.message, "cottage")
    # As if it came from the other side.
    with pytest.raises(BadExchange):
        host.finish(b"A" + host.message[1:], "cottage")


@given(st.binary(max_size=40) | st.binary(min_size=32, max_size=32).map(lambda point: b"B" + point))
def test_whatever_comes(message: bytes) -> None:
    half = Half(CODE, CLIENT)
    if is_point(message, HOST):
        assert len(half.finish(message, "cottage").key) == 32
    else:
        with pytest.raises(BadExchange):
            half.finish(message, "cottage")
