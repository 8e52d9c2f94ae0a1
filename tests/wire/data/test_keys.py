"""The agreement on a link's root, its chain of tickets, and the keys of a connection."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtunnel.wire.data import keys
from rtunnel.wire.data.keys import (
    ClientAgreement,
    Ratchet,
    Root,
    answer,
    connection_seals,
    exporter_context,
    plain_keys,
    read_plain_keys,
    wish,
)
from rtunnel.wire.data.seal import TAG, Cipher, Seal

EXPORTED = bytes(range(32))
AES, CHACHA = Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305
# A point of small order, and the field's prime, which stands for it too: each makes the shared secret all zero.
SMALL_ORDER = [bytes(32), (2**255 - 19).to_bytes(32, "little"), b"\1" + bytes(31)]
CLIENT_KEYS = ClientAgreement(AES).message
SERVER_KEYS = answer(CLIENT_KEYS, EXPORTED, AES)[0]


@pytest.mark.parametrize(
    ("client_wish", "server_wish", "cipher"),
    [(AES, AES, AES), (AES, CHACHA, CHACHA), (CHACHA, AES, CHACHA), (CHACHA, CHACHA, CHACHA)],
)
def test_both_ends_have_the_same_root(client_wish: Cipher, server_wish: Cipher, cipher: Cipher) -> None:
    client = ClientAgreement(client_wish)
    payload, root = answer(client.message, EXPORTED, server_wish)
    assert root.cipher is cipher
    assert len(root.root) == 32
    assert client.finish(payload, EXPORTED) == root


def test_lengths() -> None:
    assert len(CLIENT_KEYS) == 1 + 32 + 1184
    assert len(SERVER_KEYS) == 1 + 32 + 1088
    assert len(plain_keys()[0]) == 33


def test_each_link_has_its_own() -> None:
    roots = {answer(CLIENT_KEYS, EXPORTED, AES)[1].root for _ in range(3)}
    assert len(roots) == 3, "the server's keys are made anew for each answer"
    assert len({ClientAgreement(AES).message for _ in range(3)}) == 3


def test_another_exporter_is_another_root() -> None:
    client = ClientAgreement(AES)
    payload, root = answer(client.message, EXPORTED, AES)
    assert client.finish(payload, EXPORTED[::-1]) != root


def test_exporter_context_names_both_ends() -> None:
    contexts = {exporter_context(*ends) for ends in [(b"a", b"b"), (b"b", b"a"), (b"ab", b""), (b"", b"ab")]}
    assert len(contexts) == 4
    assert {len(context) for context in contexts} == {64}


def test_only_the_first_answer_counts() -> None:
    client = ClientAgreement(AES)
    payload, _ = answer(client.message, EXPORTED, AES)
    client.finish(payload, EXPORTED)
    with pytest.raises(ValueError, match="a second KEYS"):
        client.finish(payload, EXPORTED)


def test_a_bad_answer_uses_the_keys_up_too() -> None:
    client = ClientAgreement(AES)
    payload, _ = answer(client.message, EXPORTED, AES)
    with pytest.raises(ValueError, match="KEYS of 0 bytes where 1121 belong"):
        client.finish(b"", EXPORTED)
    with pytest.raises(ValueError, match="a second KEYS"):
        client.finish(payload, EXPORTED)


def malformed(good: bytes) -> list[tuple[bytes, str]]:
    """Payloads that neither end takes, with what the error says."""
    return [
        (b"", "KEYS of 0 bytes"),
        (good[:-1], f"KEYS of {len(good) - 1} bytes"),
        (good + b"\0", f"KEYS of {len(good) + 1} bytes"),
        (b"\0" + good[1:], "without a cipher"),
        (b"\3" + good[1:], "unknown cipher 3"),
        (b"\xff" + good[1:], "unknown cipher 255"),
        *((good[:1] + point + good[33:], "bad X25519 key") for point in SMALL_ORDER),
    ]


@pytest.mark.parametrize(("payload", "reason"), malformed(SERVER_KEYS))
def test_malformed_answer(payload: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ClientAgreement(AES).finish(payload, EXPORTED)


@pytest.mark.parametrize(
    ("payload", "reason"), [*malformed(CLIENT_KEYS), (CLIENT_KEYS[:33] + b"\xff" * 1184, "bad ML-KEM key")]
)
def test_malformed_question(payload: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        answer(payload, EXPORTED, AES)


def test_a_server_must_not_overrule_the_wish() -> None:
    with pytest.raises(ValueError, match="did not wish for"):
        ClientAgreement(CHACHA).finish(b"\1" + SERVER_KEYS[1:], EXPORTED)


def test_another_ciphertext_is_another_root() -> None:
    """ML-KEM has no bad ciphertexts. It gives a secret that nobody else has, so no ticket is found."""
    client = ClientAgreement(AES)
    payload, root = answer(client.message, EXPORTED, AES)
    assert client.finish(payload[:-1] + bytes([payload[-1] ^ 1]), EXPORTED) != root


# Without TLS


def test_plain() -> None:
    payload, root = plain_keys()
    assert root.cipher is Cipher.NONE
    assert read_plain_keys(payload) == root
    assert plain_keys()[1] != root


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "KEYS of 0 bytes where 33 belong"),
        (bytes(32), "KEYS of 32 bytes"),
        (bytes(34), "KEYS of 34 bytes"),
        (b"\1" + bytes(32), "with a cipher"),
        (b"\2" + bytes(32), "with a cipher"),
        (b"\3" + bytes(32), "unknown cipher 3"),
        (SERVER_KEYS, "KEYS of 1121 bytes"),
    ],
)
def test_malformed_plain(payload: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_plain_keys(payload)


# Tickets


def test_both_ends_have_the_same_tickets() -> None:
    one, other = Ratchet(EXPORTED), Ratchet(EXPORTED)
    issued = [one.next() for _ in range(50)]
    assert issued == [other.next() for _ in range(50)]
    assert [ticket.index for ticket in issued] == list(range(50))
    assert one.index == 50
    assert {len(ticket.id) for ticket in issued} == {16}
    assert {len(ticket.key) for ticket in issued} == {32}
    assert len({ticket.id for ticket in issued} | {ticket.key for ticket in issued}) == 100


def test_the_chain_moves_on() -> None:
    """What a ratchet holds leads to no ticket that it has given."""
    ratchet = Ratchet(EXPORTED)
    given = [ratchet.next() for _ in range(3)]
    assert ratchet._chain != EXPORTED
    later = [Ratchet(ratchet._chain).next() for _ in range(3)]
    assert not {ticket.key for ticket in given} & {ticket.key for ticket in later}


def test_no_key_is_shown() -> None:
    root = Root(EXPORTED, AES)
    ticket = Ratchet(EXPORTED).next()
    shown = f"{root} {ticket} {Ratchet(EXPORTED)} {ClientAgreement(AES)}"
    for secret in (EXPORTED, ticket.key):
        assert repr(secret) not in shown
        assert secret.hex() not in shown


# A connection


def carried(sender: Seal, receiver: Seal) -> bool:
    out, back = bytearray(5 + TAG), bytearray(5)
    sender.seal(b"header..", b"hello", memoryview(out))
    try:
        receiver.unseal(b"header..", bytes(out), memoryview(back))
    except ValueError:
        return False
    return back == b"hello"


@pytest.mark.parametrize("cipher", [AES, CHACHA])
def test_seals_of_both_ends(cipher: Cipher) -> None:
    arguments = (b"k" * 32, b"c" * 32, b"s" * 32, cipher)
    client_sender, client_receiver = connection_seals(*arguments, is_client=True)
    server_sender, server_receiver = connection_seals(*arguments, is_client=False)
    assert carried(client_sender, server_receiver)
    assert carried(server_sender, client_receiver)
    client_sender, client_receiver = connection_seals(*arguments, is_client=True)
    assert not carried(client_sender, client_receiver), "what an end has sent can't be sent back to it"


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_seals_depend_on_everything(changed: int) -> None:
    parts = [b"k" * 32, b"c" * 32, b"s" * 32]
    sender, _ = connection_seals(parts[0], parts[1], parts[2], AES, is_client=True)
    parts[changed] = b"x" * 32
    _, receiver = connection_seals(parts[0], parts[1], parts[2], AES, is_client=False)
    assert not carried(sender, receiver)


# The wish


@pytest.mark.parametrize(
    ("cpuinfo", "cipher"),
    [
        ("processor\t: 0\nflags\t\t: fpu aes avx\n\nprocessor\t: 1\nflags\t\t: fpu aes avx\n", AES),
        ("processor\t: 0\nflags\t\t: fpu avx\n", CHACHA),
        ("flags\t\t: fpu aes\nvmx flags\t: vnmi ept\n", AES),
        ("processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1\n", AES),
        ("processor\t: 0\nFeatures\t: half thumb fastmult vfp neon\nHardware\t: BCM2835\n", CHACHA),
        ("Features\t: fp aes\nFeatures\t: fp\n", CHACHA),
        ("Features\t: fp vaes\n", CHACHA),
        ("processor\t: 0\nisa\t\t: rv64imafdc\n", AES),
        ("", AES),
    ],
)
def test_wish(cpuinfo: str, cipher: Cipher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    monkeypatch.setattr(keys, "Path", lambda name: path)
    assert wish.__wrapped__() is cipher


def test_wish_where_nothing_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "Path", lambda name: tmp_path / "none")
    assert wish.__wrapped__() is AES
