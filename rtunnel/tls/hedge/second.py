"""A second signature of an identity, beside ML-DSA's.

The identity's certificate names a second key by its hash. Whoever shows the certificate proves on each connection that
he has that key too: he signs what the connection's exporter gives (RFC 8446, section 7.5; docs/wire.rst) ::

    extension   scheme's name | SP | SHA-256(public key)
    proof       length of the public key, u16 | public key | signature
    signed      "rtunnel second signature " | role | SP | exported

That holds against a break of ML-DSA as far as the certificate itself is trusted *by its fingerprint*: a pin, a file of
known hosts, a file of authorized clients. A certificate that a CA vouches for is as good as the CA's own signature.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64decode, b64encode
from binascii import Error
from dataclasses import dataclass, field
from hashlib import sha256
from struct import Struct

from cryptography import x509

from rtunnel.errors import ConfigError
from rtunnel.tls.hedge.liboqs import signature
from rtunnel.tls.hedge.schemes import SCHEMES

#: Names the extension: an arc under a UUID, which nobody has to assign (ITU-T X.667).
OID = x509.ObjectIdentifier("2.25.213435393028778554212209540364938542292")
#: The longest proof, in bytes.
MOST_PROOF = 2 + max(scheme.public_key + scheme.signature for scheme in SCHEMES.values())
#: The label of the block of a file in PEM (RFC 7468) that has such a key.
BLOCK = "RTUNNEL SECOND KEY"

_BEGIN, _END = f"-----BEGIN {BLOCK}-----", f"-----END {BLOCK}-----"
_LENGTH = Struct("!H")
_DIGEST = 32


def _signed(exported: bytes, role: str) -> bytes:
    return b"rtunnel second signature " + role.encode("ascii") + b" " + exported


@dataclass(frozen=True, slots=True)
class SecondKey:
    """The second key of an identity.

    :ivar name: of its scheme.
    :ivar public: the public key.
    :ivar private: the private key.
    """

    name: str
    public: bytes
    private: bytes = field(repr=False)

    @classmethod
    def make(cls, name: str) -> SecondKey:
        """Make a new key of the scheme *name*.

        :raises ConfigError: there is no such scheme, or this machine cannot compute it.
        """
        if name not in SCHEMES:
            raise ConfigError(f"'{name}' is not one of {', '.join(SCHEMES)}")
        return cls(name, *signature(name).generate())

    @classmethod
    def read(cls, text: str) -> SecondKey:
        """Read what :meth:`write` has written.

        :raises ValueError: it is something else, or its two halves do not belong together.
        :raises ConfigError: this machine cannot compute its scheme.
        """
        lines = text.strip().splitlines()
        try:
            if len(lines) < 3 or (lines[0], lines[-1]) != (_BEGIN, _END):
                raise ValueError("no such block")
            name, _, keys = b64decode("".join(lines[1:-1]), validate=True).partition(b"\n")
            scheme = SCHEMES[name.decode("ascii", "replace")]
        except (ValueError, KeyError, Error):
            raise ValueError("its second key cannot be read") from None
        computes = signature(scheme.name)
        if len(keys) != scheme.public_key + computes.private_length:
            raise ValueError("its second key was cut")
        public, private = keys[: scheme.public_key], keys[scheme.public_key :]
        probe = secrets.token_bytes(_DIGEST)
        try:
            is_whole = computes.verify(probe, computes.sign(probe, private), public)
        except ValueError:
            is_whole = False
        if not is_whole:
            raise ValueError("its second key is damaged")
        return cls(scheme.name, public, private)

    def write(self) -> str:
        """Return the text of a file, which nobody else may read."""
        coded = b64encode(self.name.encode("ascii") + b"\n" + self.public + self.private).decode("ascii")
        lines = [coded[start : start + 64] for start in range(0, len(coded), 64)]
        return "\n".join([_BEGIN, *lines, _END, ""])

    @property
    def extension(self) -> x509.UnrecognizedExtension:
        """What the identity's certificate says about the key; not critical."""
        return x509.UnrecognizedExtension(OID, self.name.encode("ascii") + b" " + sha256(self.public).digest())

    def belongs_to(self, certificate: x509.Certificate) -> bool:
        """Return whether *certificate* names this key.

        :raises ValueError: see :func:`second_of`.
        """
        return second_of(certificate) == (self.name, sha256(self.public).digest())

    def prove(self, exported: bytes, role: str) -> bytes:
        """Return the proof for one connection.

        :param exported: what the connection's exporter gives.
        :param role: which end this is, such as ``host``, so that a proof cannot be sent back.
        """
        signed = signature(self.name).sign(_signed(exported, role), self.private)
        return _LENGTH.pack(len(self.public)) + self.public + signed


def second_of(certificate: x509.Certificate) -> tuple[str, bytes] | None:
    """Return the name and the SHA-256 of the second key that *certificate* demands; None: it demands none.

    :raises ValueError: it demands one that cannot be understood. Nobody must be let in by it.
    """
    try:
        value = certificate.extensions.get_extension_for_oid(OID).value
    except x509.ExtensionNotFound:
        return None
    except Exception as error:
        # The parser of extensions raises many kinds of exceptions.
        raise ValueError(f"certificate cannot be read ({type(error).__name__})") from None
    assert isinstance(value, x509.UnrecognizedExtension)
    name, digest = value.value[: -_DIGEST - 1], value.value[-_DIGEST:]
    if len(value.value) <= _DIGEST + 1 or value.value[-_DIGEST - 1 : -_DIGEST] != b" ":
        raise ValueError("certificate names a second key in an unknown way")
    return name.decode("ascii", "replace"), digest


def check_second(certificate: x509.Certificate, exported: bytes, role: str, proof: bytes) -> str:
    """Check the proof of an end that has shown *certificate*. Return the name of the scheme; empty: it needs none.

    :param exported: what the connection's exporter gives.
    :param role: which end the other one is.
    :param proof: what it has sent; empty: nothing.
    :raises ValueError: it has not proved that it has the key. The message says why.
    :raises ConfigError: this machine cannot check it.
    """
    try:
        expected = second_of(certificate)
    except ValueError as error:
        raise ValueError(f"the {role}'s {error}") from None
    if expected is None:
        return ""
    name, digest = expected
    if name not in SCHEMES:
        raise ConfigError("this rtunnel knows no such kind; update it")
    if not proof:
        raise ValueError(f"the {role}'s certificate names a second key ({name}), and the {role} has not signed with it")
    scheme = SCHEMES[name]
    if len(proof) <= _LENGTH.size + scheme.public_key or _LENGTH.unpack_from(proof)[0] != scheme.public_key:
        raise ValueError(f"the {role}'s second signature ({name}) is malformed")
    public, signed = proof[2 : 2 + scheme.public_key], proof[2 + scheme.public_key :]
    if not hmac.compare_digest(sha256(public).digest(), digest):
        raise ValueError(f"the {role}'s second key ({name}) is not the one in its certificate")
    if not signature(name).verify(_signed(exported, role), signed, public):
        raise ValueError(f"the {role}'s second signature ({name}) is wrong")
    return name
