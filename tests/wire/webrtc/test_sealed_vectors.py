"""Sealed peer connections are those of ``vectors.json``, which another library computes too."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from rtunnel.wire.data.keys import Root
from rtunnel.wire.data.seal import Cipher
from rtunnel.wire.webrtc.sealed_keys import EXPORTER_LABEL, EXPORTER_LENGTH, Ends, Side, bind_key, channel_keys
from rtunnel.wire.webrtc.sealed_messages import channel_seals
from rtunnel.wire.webrtc.sealed_open import Arriving, Opening
from tests.wire.webrtc import recompute

FILE = (Path(__file__).parent / "vectors.json").read_text("utf-8")
VECTORS: dict[str, Any] = json.loads(FILE)
BOUND: dict[str, str] = VECTORS["binding"]


def test_another_library_computes_the_same() -> None:
    assert recompute.text() == FILE


def test_exporter() -> None:
    digests = [bytes.fromhex(BOUND[name]) for name in ("host_identity", "client_identity", "host_dtls", "client_dtls")]
    keys = bytes.fromhex(BOUND["client_keys"]), bytes.fromhex(BOUND["host_keys"])
    assert Ends(*digests).exporter_context(sha256(b"".join(keys)).digest()).hex() == BOUND["exporter_context"]
    assert {side: bind_key(bytes.fromhex(BOUND["root"]), side).hex() for side in Side} == {
        Side.CLIENT: BOUND["client_bind"],
        Side.HOST: BOUND["host_bind"],
    }
    assert EXPORTER_LABEL.decode() == BOUND["exporter_label"]
    assert len(bytes.fromhex(BOUND["exported"])) == EXPORTER_LENGTH


@pytest.mark.parametrize(
    "channel", VECTORS["channels"], ids=lambda one: f"{one['name']}-{one['opener']}-{one['ordinal']}"
)
def test_channels(channel: dict[str, Any]) -> None:
    root = Root(bytes.fromhex(BOUND["root"]), Cipher(channel["cipher"]))
    opener, ordinal, reliable = Side(channel["opener"]), channel["ordinal"], channel["reliable"]
    opening, arriving = Opening(root, opener), Arriving(root, opener.other)
    opening.ordinal = ordinal
    protocol, ours = opening.open(channel["label"], channel["service"], reliable=reliable)
    assert protocol == channel["protocol"]
    label, service, theirs = arriving.take(protocol, reliable=reliable)
    assert (label, service) == (channel["label"], channel["service"])
    seals = {opener: ours, opener.other: theirs}
    keys = channel_keys(root.root, opener, ordinal)
    for side in Side:
        assert {Side.CLIENT: keys.client, Side.HOST: keys.host}[side].hex() == channel[f"{side}_secret"]
        reader = channel_seals(keys, root.cipher, side.other, ordinal, reliable=reliable)
        for each in channel[f"{side}_messages"]:
            message, sealed, text = bytes.fromhex(each["message"]), bytes.fromhex(each["sealed"]), each["text"]
            assert seals[side].seal(message, text=text) == sealed
            assert reader.open(sealed, 0.0) == (message, text)
