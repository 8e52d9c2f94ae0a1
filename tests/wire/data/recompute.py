"""``vectors.json``, from its inputs, by another library and from docs/wire.rst alone. Nothing of ours is imported.

``python -m tests.wire.data.recompute > tests/wire/data/vectors.json`` writes the file anew.
"""

from __future__ import annotations

import json
from struct import pack
from typing import Any

from Crypto.Cipher import AES, ChaCha20_Poly1305
from Crypto.Hash import HMAC, SHA256
from Crypto.Protocol.DH import import_x25519_private_key, import_x25519_public_key, key_agreement
from Crypto.PublicKey import MLKEM

CLIENT_X25519 = bytes(range(0x20))
CLIENT_ML_KEM = bytes(range(0x20, 0x60))
SERVER_X25519 = bytes(range(0x60, 0x80))
# The library keeps encapsulation to itself, so these two were made by OpenSSL, once, for the client's key.
ML_KEM_CIPHERTEXT = bytes.fromhex(
    "7713f20fd074c22236622b4da9ff78cc4ecc2a9982a93b77bba4da353bc5fcf7efe4ef9a963ba27456be6079007871b87efad716cfd3f4b2"
    "a70f2fc5e669ac6cb60814ca5bf777f3d3d7329be68318bea42c6a60cb82b3c3d45ddbfdc51786f61d34bc58f236ad144c38422b28480c93"
    "bd9517f285f7c77b574800b40b5d0703cbdf0082dc8e5f0255664448e73290117e5a715559fca7a13f0715ef6e53bff7d553fec0366c92d1"
    "28d5a324ba783fd28719adb0848e005d6aa7b954ea3c2988db58cbace1478eb1eb73062534055b10c6b503a2680f62aa47e30d6e22e30e6e"
    "0ed88d6f80763cd3400f9c23be0e7deea9bfdc880a286fbfb7000f5c193f65589213ee70757d426a472f8d1248fca35d0ea626f26e199aa2"
    "2da2194039274bb603377e01a50f9e9fc55733dda7c6126441f64cb68d70ed8f0f71a5bde4e35ebba4f1dc4595b6a19754f152c552697697"
    "3b4aad9d0d5ba63c3c652d126e75488d37d7a5ecfcf4c629f5bd0dc6f4604bf0e65aa5b4f43559492a05ea6ea803589b8afcec674b3dfd51"
    "c5ceca64ff93dcbe8178bb69e99a0e22399738f6d799395be8be5a866953e50aa7294fb5c8ef6c4c359919543e0601ee1ea1dc7470508a9c"
    "8eea39fb8c1daf1ce58c0571fbbe2aaf7c1959d196f3dd69355f4a1bdbdf20da37c5afebacf0bcea3f9c682a818d017e4cc0a8210c7f8211"
    "1b4aff387535e10039fbd24dee70e4ce14d88d8436a221435e7f827a2002e67612a63f9c04590bf7e73ddb50bbc938b8bd69f7995c3404f5"
    "bc5c23918e1b4e90c984f40fff326254d5a3f215ad2c4e6695f4091cdf182ba2f72ac570a487309c7cf1a1358435a904117eb064b652e875"
    "f23ceeb2328464368cc1d14c367a5b43ce495545769e6b98c24bf406d2a84746a8b4cc50f1264fc893565b0ae01aee0e460ab1e5665d8729"
    "d87886e2abcebf81fecf55c44bd6b96575c7ad275a8f00016255b6b41f5a1d6d90c3edb8983eeb5e6b9c7214b97e7bc428422d7d434d4b51"
    "6e0f97454d02a0ef285dd603ab59c6ccd5190fc513f01501a46ce0502188e30b3589e43d67b04e65c726563e4b68b68f6df3c5c575acb545"
    "7a551199e96dc549ca97bf16fcd14704874e4e11d69b6b9d1d1c7888a17a2c2f1498dfd7a6bf4df44a902fafc7faee7d0a83b9b8fd1f2ffd"
    "209f1a81955f617f64f17f496dd77c2636bc522fc4dc108f66e368066132f359c918645d8dc5269abc470f3c4aed4400f3704f8bfd9dddca"
    "4f0ba4456661c820fb01c2354a4fa6dfa64c57f6620b7272006289903dab4d78acabaa191640207211865fec7f8f68a0e01d64057b201f15"
    "04e81bf55f8ed8d87b47d26dc3cb3327feb983d498b91b2989363ddd7d471a39060745d75389302ebda7c8c3f49c9d443796f0971b828a89"
    "acc1dc002a8739ca110a306ee1f4ac18f3170a4f65b6dd90427cbaaec13bdd168d2cbc53d7dc2fa422dc62389243bb0804378f06b80b9c44"
    "84a1886f7a7a1eb100fb03bd35e1a603b515ac10e34ea6aa"
)
ML_KEM_SHARED = bytes.fromhex("1f864c3ae53d627bdb1534283b18c907d09a2fd62e8c32c51040f0b65f762528")
SERVER_CERTIFICATE = b"the server's certificate in DER"
CLIENT_CERTIFICATE = b"the client's certificate in DER"
EXPORTED = bytes(range(0x80, 0xA0))
CLIENT_RANDOM = bytes(range(0xA0, 0xC0))
SERVER_RANDOM = bytes(range(0xC0, 0xE0))
STREAM = 7
RECORDS_PER_KEY = 2

DATA, END, RESET, ALIVE, OPEN = 1, 2, 3, 4, 5
CIPHERS = {1: "AES-256-GCM", 2: "ChaCha20-Poly1305"}
SENT = {
    "server": [
        (ALIVE, 0, b""),
        (OPEN, STREAM, pack("!II", 0, 0) + b"192.0.2.1:5000"),
        (DATA, STREAM, b"GET / HTTP/1.0\r\n\r\n"),
        (END, STREAM, b""),
        (RESET, STREAM, b"connection-lost\0the visitor is gone"),
    ],
    "client": [
        (ALIVE, 0, b""),
        (DATA, STREAM, b"HTTP/1.0 200 OK\r\n\r\n" + bytes(range(256))),
        (END, STREAM, b""),
    ],
}
"""The records of each end: kind, stream, payload. They need not make sense together."""

PATH = 0xC0FFEE07
PLAIN_ROOT = bytes(range(0xE0, 0x100))
PACKETS_PER_KEY = 2**23
VISITOR = b"192.0.2.1:5000"
MESSAGES = {
    "server": [
        (0, b"\x03" + bytes(range(8))),
        (1, pack("!BIIB", 0x11, 7, 3, len(VISITOR)) + VISITOR + b"hello"),
        (2, pack("!BIBB", 0x05, 9, 1, 2) + b"the second half"),
        (PACKETS_PER_KEY - 1, pack("!BI", 0x14, 7)),
        (PACKETS_PER_KEY, pack("!BI", 0x10, 8)),
        (2 * PACKETS_PER_KEY, pack("!BI", 0x02, 1)),
    ],
    "client": [
        (0, pack("!BI", 0x01, 1) + bytes(7)),
        (1, b"\x04" + bytes(range(8))),
        (2, pack("!BI", 0x12, 7)),
        (PACKETS_PER_KEY - 1, pack("!BI", 0x10, 7) + b"and hello to you"),
        (PACKETS_PER_KEY, pack("!BI", 0x10, 7) + b"again"),
    ],
}
"""The packets of each end: number, message. The numbers in between are those of other packets."""


def extract(salt: bytes, secret: bytes) -> bytes:
    return HMAC.new(salt, secret, SHA256).digest()


def expand(secret: bytes, info: str, length: int = 32) -> bytes:
    return HMAC.new(secret, info.encode() + b"\1", SHA256).digest()[:length]


def seal(cipher: int, key: bytes, nonce: int, header: bytes, payload: bytes) -> bytes:
    number = bytes(4) + pack("!Q", nonce)
    aead: Any = (
        AES.new(key, AES.MODE_GCM, nonce=number) if cipher == 1 else ChaCha20_Poly1305.new(key=key, nonce=number)
    )
    aead.update(header)
    sealed, tag = aead.encrypt_and_digest(payload)
    return bytes(sealed + tag)


def agreement() -> dict[str, Any]:
    client, server = import_x25519_private_key(CLIENT_X25519), import_x25519_private_key(SERVER_X25519)
    client_public = client.public_key().export_key(format="raw")
    server_public = server.public_key().export_key(format="raw")
    shared = key_agreement(eph_priv=client, eph_pub=import_x25519_public_key(server_public), kdf=bytes)
    encapsulation_key = MLKEM.construct(param_set=MLKEM.ML_KEM_768, seed=CLIENT_ML_KEM).ek
    context = SHA256.new(SERVER_CERTIFICATE).digest() + SHA256.new(CLIENT_CERTIFICATE).digest()
    return {
        "server_certificate": SERVER_CERTIFICATE,
        "client_certificate": CLIENT_CERTIFICATE,
        "exporter_label": "EXPORTER-rtunnel-records",
        "exporter_context": context,
        "exported": EXPORTED,
        "client_x25519_private": CLIENT_X25519,
        "client_ml_kem_seed": CLIENT_ML_KEM,
        "server_x25519_private": SERVER_X25519,
        "client_keys": b"\1" + client_public + encapsulation_key,
        "server_keys": b"\1" + server_public + ML_KEM_CIPHERTEXT,
        "x25519_shared": shared,
        "ml_kem_shared": ML_KEM_SHARED,
        "root": expand(extract(EXPORTED, shared + ML_KEM_SHARED), "rtunnel root"),
    }


def tickets(root: bytes, count: int) -> list[dict[str, Any]]:
    found, chain = [], root
    for index in range(count):
        id, key = expand(chain, "rtunnel ticket", 16), expand(chain, "rtunnel key")
        found.append({"index": index, "id": id, "key": key})
        chain = expand(chain, "rtunnel chain")
    return found


def connection(cipher: int, ticket: dict[str, Any]) -> dict[str, Any]:
    prk = extract(CLIENT_RANDOM + SERVER_RANDOM, ticket["key"])
    found: dict[str, Any] = {
        "cipher": cipher,
        "name": CIPHERS[cipher],
        "ticket": ticket["index"],
        "client_random": CLIENT_RANDOM,
        "server_random": SERVER_RANDOM,
        "attach": ticket["id"] + CLIENT_RANDOM,
        "records_per_key": RECORDS_PER_KEY,
    }
    for end, sent in SENT.items():
        secret = expand(prk, f"rtunnel {end}")
        found[f"{end}_secret"] = secret
        records = []
        for number, (kind, stream, payload) in enumerate(sent):
            nonce = number % RECORDS_PER_KEY
            if number and nonce == 0:
                secret = expand(secret, "next")
            key = expand(secret, "key")
            header = pack("!II", kind << 24 | len(payload) + 16, stream)
            sealed = seal(cipher, key, nonce, header, payload)
            records.append({"key": key, "nonce": nonce, "header": header, "payload": payload, "sealed": sealed})
        found[f"{end}_records"] = records
    return found


def path(link_cipher: int, root: bytes) -> dict[str, Any]:
    cipher = link_cipher or 1
    found: dict[str, Any] = {
        "link_cipher": link_cipher,
        "cipher": cipher,
        "name": CIPHERS[cipher] + ("" if link_cipher else ", no TLS"),
        "root": root,
        "id": PATH,
    }
    for end, sent in MESSAGES.items():
        secret = expand(expand(root, "rtunnel udp"), f"rtunnel {end}")
        found[f"{end}_secret"] = secret
        packets = []
        keys_before = 0
        for number, message in sent:
            while keys_before < number // PACKETS_PER_KEY:
                secret = expand(secret, "next")
                keys_before += 1
            key = expand(secret, "key")
            header = pack("!IQ", PATH, number)
            packet = header + seal(cipher, key, number, header, message)
            packets.append({"number": number, "key": key, "message": message, "packet": packet})
        found[f"{end}_packets"] = packets
    return found


def vectors() -> dict[str, Any]:
    keys = agreement()
    issued = tickets(keys["root"], 3)
    return {
        "about": "Keys of a link, tickets, sealed records, and packets of UDP paths, as in docs/wire.rst. Bytes are in"
        " hexadecimal. In use, records_per_key is 2**20.",
        "keys": keys,
        "tickets": issued,
        "connections": [connection(cipher, issued[cipher]) for cipher in CIPHERS],
        "paths": [*(path(cipher, keys["root"]) for cipher in CIPHERS), path(0, PLAIN_ROOT)],
    }


def text() -> str:
    return json.dumps(vectors(), indent=1, default=bytes.hex) + "\n"


if __name__ == "__main__":
    print(text(), end="")
