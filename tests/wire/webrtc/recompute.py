"""``vectors.json``, from its inputs, by another library and from docs/wire.rst alone. Nothing of ours is imported.

``python -m tests.wire.webrtc.recompute > tests/wire/webrtc/vectors.json`` writes the file anew.
"""

from __future__ import annotations

import base64
import json
from struct import pack
from typing import Any

from Crypto.Hash import SHA256

from tests.wire.data.recompute import CIPHERS, agreement, expand, extract, seal

HOST_IDENTITY = b"the host's identity in DER"
CLIENT_IDENTITY = b"the client's identity in DER"
HOST_DTLS = b"the host's certificate of DTLS in DER"
CLIENT_DTLS = b"the client's certificate of DTLS in DER"
EXPORTED = bytes(range(0x80, 0xA0))

BINARY, TEXT = 0, 1
CHANNELS: list[dict[str, Any]] = [
    {"opener": "client", "ordinal": 0, "reliable": True, "label": "tcp-192.0.2.1:5000", "service": "web"},
    {"opener": "client", "ordinal": 1, "reliable": False, "label": "udp-192.0.2.1:5000", "service": ""},
    {
        "opener": "host",
        "ordinal": 0,
        "reliable": True,
        "label": "",
        "service": "\N{LATIN SMALL LETTER U WITH DIAERESIS}",
    },
    {"opener": "client", "ordinal": 2**32 + 7, "reliable": False, "label": "x" * 30, "service": "y"},
]
SENT = {
    "client": [(BINARY, b"GET / HTTP/1.0\r\n\r\n"), (TEXT, b'{"fin":18}'), (BINARY, b"")],
    "host": [(TEXT, b'{"credit":131072}'), (BINARY, bytes(range(256)))],
}
"""What each end sends on each channel: kind, message."""


def binding() -> dict[str, Any]:
    keys = agreement()
    digests = [SHA256.new(each).digest() for each in (HOST_IDENTITY, CLIENT_IDENTITY, HOST_DTLS, CLIENT_DTLS)]
    both = SHA256.new(keys["client_keys"] + keys["server_keys"]).digest()
    root = expand(extract(EXPORTED, keys["x25519_shared"] + keys["ml_kem_shared"]), "rtunnel root")
    return {
        "host_identity": digests[0],
        "client_identity": digests[1],
        "host_dtls": digests[2],
        "client_dtls": digests[3],
        "client_keys": keys["client_keys"],
        "host_keys": keys["server_keys"],
        "exporter_label": "EXPORTER-rtunnel-webrtc",
        "exporter_context": b"".join(digests) + both,
        "exported": EXPORTED,
        "root": root,
        "client_bind": expand(root, "rtunnel bind client"),
        "host_bind": expand(root, "rtunnel bind host"),
    }


def channel(cipher: int, root: bytes, what: dict[str, Any]) -> dict[str, Any]:
    ordinal = pack("!Q", what["ordinal"])
    info = b"rtunnel channel " + what["opener"].encode() + ordinal
    secret = expand(root, info.decode("latin-1")) if max(ordinal) < 0x80 else b""
    assert secret
    names = [pack("!H", len(each)) + each for each in (what["label"].encode(), what["service"].encode())]
    purpose = b"".join(names)
    purpose += bytes(-len(purpose) % 32)
    sealed = seal(cipher, expand(secret, "rtunnel open"), 0, bytes([what["reliable"]]), purpose)
    found: dict[str, Any] = {
        **what,
        "cipher": cipher,
        "name": CIPHERS[cipher],
        "secret": secret,
        "purpose": purpose,
        "protocol": base64.urlsafe_b64encode(ordinal + sealed).decode().rstrip("="),
    }
    for end, sent in SENT.items():
        direction = expand(secret, f"rtunnel {end}")
        key = expand(direction, "key")
        messages = []
        for number, (kind, message) in enumerate(sent):
            if what["reliable"]:
                wire = bytes([kind]) + seal(cipher, key, number, bytes([kind]), message)
            else:
                header = pack("!IQ", what["ordinal"] % 2**32, number)
                wire = header + seal(cipher, key, number, header, bytes([kind]) + message)
            messages.append({"text": kind == TEXT, "message": message, "sealed": wire})
        found[f"{end}_secret"] = direction
        found[f"{end}_messages"] = messages
    return found


def vectors() -> dict[str, Any]:
    bound = binding()
    return {
        "about": "The keys of sealed peer connections, what opens their channels, and messages, as in docs/wire.rst."
        " Bytes are in hexadecimal.",
        "binding": bound,
        "channels": [channel(cipher, bound["root"], what) for cipher in CIPHERS for what in CHANNELS],
    }


def text() -> str:
    return json.dumps(vectors(), indent=1, default=bytes.hex) + "\n"


if __name__ == "__main__":
    print(text(), end="")
