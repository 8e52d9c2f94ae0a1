"""The secrets of a path and its packets are those of ``vectors.json``, which another library computes too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rtunnel.wire.data.keys import Root, path_secrets
from rtunnel.wire.data.seal import Cipher
from rtunnel.wire.datagrams.messages import DATAGRAM, encode_first, encode_number
from rtunnel.wire.datagrams.packets import HEADER, KEY_SHIFT, Opener, Sealer, packet_id
from tests.wire.data.test_vectors import VECTORS

DOCUMENT = Path(__file__).parents[3] / "docs" / "wire.rst"
PATHS = pytest.mark.parametrize("vector", VECTORS["paths"], ids=lambda vector: vector["name"])


@PATHS
def test_secrets(vector: dict[str, Any]) -> None:
    found = path_secrets(Root(vector["root"], Cipher(vector["link_cipher"])))
    assert found == (vector["client_secret"], vector["server_secret"], Cipher(vector["cipher"]))


@PATHS
@pytest.mark.parametrize("end", ["client", "server"])
def test_packets(vector: dict[str, Any], end: str) -> None:
    seal = vector["id"], vector[f"{end}_secret"], Cipher(vector["cipher"])
    sealer, opener = Sealer(*seal), Opener(*seal)
    keys = set()
    for packet in vector[f"{end}_packets"]:
        sealer._number = packet["number"]
        assert sealer.seal(packet["message"]) == packet["packet"]
        assert packet_id(packet["packet"]) == vector["id"]
        assert opener.open(packet["packet"], 0.0) == packet["message"]
        keys.add((packet["number"] >> KEY_SHIFT, packet["key"]))
    assert len({key for _, key in keys}) == len(keys) >= 2


def test_messages() -> None:
    packets = VECTORS["paths"][0]["server_packets"]
    assert packets[1]["message"] == encode_first(7, 3, "192.0.2.1:5000", b"hello")
    assert packets[4]["message"] == encode_number(DATAGRAM, 8)


def test_the_example_of_the_document() -> None:
    """The first packet under the client's second key, with AES-256-GCM."""
    section = DOCUMENT.read_text("utf-8").partition("\nPackets\n")[2].partition("\n~~~~")[0]
    shown = dict(
        re.findall(r"^    (secret|next secret|key|nonce|header|message|packet) +([0-9a-f]+)", section, re.MULTILINE)
    )
    vector = VECTORS["paths"][0]
    packet = vector["client_packets"][4]
    assert HEADER.unpack_from(packet["packet"]) == (vector["id"], 1 << KEY_SHIFT)
    shown_bytes = {name: bytes.fromhex(value) for name, value in shown.items()}
    assert shown_bytes == {
        "secret": vector["client_secret"],
        "key": packet["key"],
        "nonce": bytes(4) + packet["packet"][4:12],
        "header": packet["packet"][:12],
        "message": packet["message"],
        "packet": packet["packet"],
    }
