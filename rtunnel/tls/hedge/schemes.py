"""Signature schemes of other families than ML-DSA's. Without the library, so that names can be checked anywhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scheme:
    """A scheme of which an identity may have a second key. Sizes are in bytes.

    :ivar name: the name in certificates and settings.
    :ivar public_key: the size of a public key.
    :ivar signature: the size of the longest signature.
    :ivar family: what it rests on, for people.
    """

    name: str
    public_key: int
    signature: int
    family: str


#: All of them. They are candidates or drafts of NIST's process, in the versions of liboqs 0.13.
SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("Falcon-1024", 1793, 1462, "NTRU lattices"),
        Scheme("MAYO-5", 5554, 964, "multivariate equations"),
    )
}
