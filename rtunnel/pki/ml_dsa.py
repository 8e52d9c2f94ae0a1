"""ML-DSA private keys in the forms that other programs write (RFC 9881, section 6).

    seed [0] OCTET STRING | expandedKey OCTET STRING | both SEQUENCE { seed, expandedKey: OCTET STRING }

cryptography reads only the first. OpenSSL 3.5, Bouncy Castle and pyOpenSSL write the last. The seed is all of the key;
the expanded form follows from it, but not the other way round.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_KINDS: Mapping[str, type[mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey]] = {
    "2.16.840.1.101.3.4.3.17": mldsa.MLDSA44PrivateKey,
    "2.16.840.1.101.3.4.3.18": mldsa.MLDSA65PrivateKey,
    "2.16.840.1.101.3.4.3.19": mldsa.MLDSA87PrivateKey,
}
#: The tag of DER.
_OCTET_STRING = b"\x04"


@asn1.sequence
class _Algorithm:
    oid: x509.ObjectIdentifier


@asn1.sequence
class _PrivateKeyInfo:
    """RFC 5958, section 2."""

    version: int
    algorithm: _Algorithm
    key: bytes
    attributes: Annotated[asn1.SetOf[asn1.TLV] | None, asn1.Implicit(0)]
    public_key: Annotated[asn1.BitString | None, asn1.Implicit(1)]


@asn1.sequence
class _Both:
    seed: bytes
    expanded: bytes


class SeedMissing(ValueError):
    """The key is there in its expanded form alone."""


def load_key(block: bytes) -> PrivateKeyTypes:
    """Return the ML-DSA key of a PEM block that has its seed and its expanded form.

    :raises SeedMissing: it has only the expanded form.
    :raises ValueError: it is something else.
    """
    lines = block.strip().splitlines()
    info = asn1.decode_der(_PrivateKeyInfo, base64.b64decode(b"".join(lines[1:-1])))
    kind = _KINDS.get(info.algorithm.oid.dotted_string)
    if kind is None:
        raise ValueError("it is not an ML-DSA key")
    if info.key[:1] == _OCTET_STRING:
        raise SeedMissing("it has no seed")
    return kind.from_seed_bytes(asn1.decode_der(_Both, info.key).seed)
