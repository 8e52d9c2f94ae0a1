"""Keys, tickets and sealed records are those of ``vectors.json``, which another library computes too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from rtunnel.wire import messages
from rtunnel.wire.data import keys, seal
from rtunnel.wire.data.keys import ClientAgreement, Ratchet, connection_seals, exporter_context
from rtunnel.wire.data.seal import TAG, Cipher, Seal
from tests.wire.data import recompute


def bytes_of(value: dict[str, Any]) -> dict[str, Any]:
    """Read the hexadecimal texts of an object of the file."""
    texts = {"about", "name", "exporter_label"}
    return {
        name: bytes.fromhex(item) if isinstance(item, str) and name not in texts else item
        for name, item in value.items()
    }


FILE = (Path(__file__).parent / "vectors.json").read_text("utf-8")
VECTORS = json.loads(FILE, object_hook=bytes_of)
AGREED: dict[str, Any] = VECTORS["keys"]


def test_another_library_computes_the_same() -> None:
    assert recompute.text() == FILE


def test_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our client makes these KEYS and this root."""
    ours = x25519.X25519PrivateKey.from_private_bytes(AGREED["client_x25519_private"])
    ml_kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(AGREED["client_ml_kem_seed"])
    monkeypatch.setattr(x25519, "X25519PrivateKey", SimpleNamespace(generate=lambda: ours))
    monkeypatch.setattr(mlkem, "MLKEM768PrivateKey", SimpleNamespace(generate=lambda: ml_kem))
    client = ClientAgreement(Cipher.AES_256_GCM)
    assert client.message == AGREED["client_keys"]
    root = client.finish(AGREED["server_keys"], AGREED["exported"])
    assert root == keys.Root(AGREED["root"], Cipher.AES_256_GCM)


def test_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our server makes this answer and this root."""
    ours = x25519.X25519PrivateKey.from_private_bytes(AGREED["server_x25519_private"])
    encapsulated = AGREED["ml_kem_shared"], AGREED["server_keys"][33:]

    def from_public_bytes(data: bytes) -> SimpleNamespace:
        assert data == AGREED["client_keys"][33:]
        return SimpleNamespace(encapsulate=lambda: encapsulated)

    monkeypatch.setattr(x25519, "X25519PrivateKey", SimpleNamespace(generate=lambda: ours))
    monkeypatch.setattr(mlkem, "MLKEM768PublicKey", SimpleNamespace(from_public_bytes=from_public_bytes))
    payload, root = keys.answer(AGREED["client_keys"], AGREED["exported"], Cipher.AES_256_GCM)
    assert payload == AGREED["server_keys"]
    assert root == keys.Root(AGREED["root"], Cipher.AES_256_GCM)


def test_exporter() -> None:
    assert AGREED["exporter_label"] == keys.EXPORTER_LABEL.decode()
    assert len(AGREED["exported"]) == keys.EXPORTER_LENGTH
    assert AGREED["exporter_context"] == exporter_context(AGREED["server_certificate"], AGREED["client_certificate"])


def test_tickets() -> None:
    ratchet = Ratchet(AGREED["root"])
    for ticket in VECTORS["tickets"]:
        assert ratchet.index == ticket["index"]
        ours = ratchet.next()
        assert (ours.index, ours.id, ours.key) == (ticket["index"], ticket["id"], ticket["key"])


def sealed_by(sender: Seal, records: list[dict[str, bytes]]) -> list[bytes]:
    results = []
    for record in records:
        out = bytearray(len(record["payload"]) + TAG)
        sender.seal(record["header"], record["payload"], memoryview(out))
        results.append(bytes(out))
    return results


def unsealed_by(receiver: Seal, records: list[dict[str, bytes]]) -> list[bytes]:
    results = []
    for record in records:
        out = bytearray(len(record["sealed"]) - TAG)
        receiver.unseal(record["header"], record["sealed"], memoryview(out))
        results.append(bytes(out))
    return results


@pytest.mark.parametrize("vector", VECTORS["connections"], ids=lambda vector: vector["name"])
@pytest.mark.parametrize("is_client", [True, False], ids=["client", "server"])
def test_records(vector: dict[str, Any], is_client: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "RECORDS_PER_KEY", vector["records_per_key"])
    ticket = VECTORS["tickets"][vector["ticket"]]
    client_random, server_random = vector["client_random"], vector["server_random"]
    assert messages.encode_attach(ticket["id"], client_random) == vector["attach"]
    own, other = ("client", "server") if is_client else ("server", "client")
    cipher = Cipher(vector["cipher"])
    sender, receiver = connection_seals(ticket["key"], client_random, server_random, cipher, is_client=is_client)
    ours, theirs = vector[f"{own}_records"], vector[f"{other}_records"]
    assert sealed_by(sender, ours) == [record["sealed"] for record in ours]
    assert unsealed_by(receiver, theirs) == [record["payload"] for record in theirs]
    alone = Seal(vector[f"{own}_secret"], cipher)
    assert sealed_by(alone, ours) == [record["sealed"] for record in ours]
