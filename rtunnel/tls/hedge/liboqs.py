"""KEMs and signatures of liboqs, the C library of the project Open Quantum Safe.

It is called directly, by a few functions that all its releases since 0.8 have. The package ``liboqs-python`` is of no
use at run time: it takes its own version of the library only, and an import without one downloads and builds one. But
it is a way to get the library (docs/installing.rst), so its folder is among those that are searched.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from functools import cache
from pathlib import Path
from typing import Any

from rtunnel.errors import ConfigError
from rtunnel.tls.hedge.schemes import SCHEMES, Scheme
from rtunnel.wire.data.hedges import KEMS, SECRET, Kem, ordered

#: The environment variable that says where liboqs is installed, the same as liboqs-python's.
VARIABLE = "OQS_INSTALL_PATH"

_FILES = {
    "darwin": ("lib/liboqs.dylib",),
    "win32": ("bin/oqs.dll", "bin/liboqs.dll"),
}.get(sys.platform, ("lib/liboqs.so", "lib64/liboqs.so"))
_FUNCTIONS = (
    *("OQS_init", "OQS_version", "OQS_KEM_new", "OQS_KEM_keypair", "OQS_KEM_encaps", "OQS_KEM_decaps"),
    *("OQS_SIG_new", "OQS_SIG_keypair", "OQS_SIG_sign", "OQS_SIG_verify"),
)
# What a KEM was called since liboqs had to tell it from a newer variant.
_NEWER_NAMES = {"FrodoKEM-1344-AES": "eFrodoKEM-1344-AES"}


class _KemHeader(ctypes.Structure):
    """The beginning of the struct OQS_KEM, which is the same in all releases."""

    _fields_ = (
        ("method_name", ctypes.c_char_p),
        ("alg_version", ctypes.c_char_p),
        ("claimed_nist_level", ctypes.c_uint8),
        ("ind_cca", ctypes.c_bool),
        ("length_public_key", ctypes.c_size_t),
        ("length_secret_key", ctypes.c_size_t),
        ("length_ciphertext", ctypes.c_size_t),
        ("length_shared_secret", ctypes.c_size_t),
    )


class _SignatureHeader(ctypes.Structure):
    """The beginning of the struct OQS_SIG. Between level and lengths are some bytes of flags, fewer than eight."""

    _fields_ = (
        ("method_name", ctypes.c_char_p),
        ("alg_version", ctypes.c_char_p),
        ("claimed_nist_level", ctypes.c_uint8),
        ("length_public_key", ctypes.c_size_t),
        ("length_secret_key", ctypes.c_size_t),
        ("length_signature", ctypes.c_size_t),
    )


class NativeKem:
    """One KEM; see :class:`~rtunnel.wire.data.hedges.IHedge`. It may be used in several threads at once.

    :param library: the library, with the types of its functions.
    :param handle: what its function OQS_KEM_new has returned.
    """

    def __init__(self, kem: Kem, library: Any, handle: Any) -> None:
        self.kem = kem
        self._library = library
        self._handle = handle
        self._private_length = int(handle.contents.length_secret_key)

    def generate(self) -> tuple[bytes, bytes]:
        """See :class:`~rtunnel.wire.data.hedges.IHedge`."""
        public = ctypes.create_string_buffer(self.kem.public_key)
        private = ctypes.create_string_buffer(self._private_length)
        if self._library.OQS_KEM_keypair(self._handle, public, private):
            raise RuntimeError(f"liboqs makes no key of {self.kem.name}")
        return public.raw, private.raw

    def encapsulate(self, public_key: bytes) -> tuple[bytes, bytes]:
        """See :class:`~rtunnel.wire.data.hedges.IHedge`."""
        ciphertext = ctypes.create_string_buffer(self.kem.ciphertext)
        secret = ctypes.create_string_buffer(SECRET)
        is_right = len(public_key) == self.kem.public_key
        if not is_right or self._library.OQS_KEM_encaps(self._handle, ciphertext, secret, public_key):
            raise ValueError(f"KEYS with a bad key of {self.kem.name}")
        return ciphertext.raw, secret.raw

    def decapsulate(self, ciphertext: bytes, private_key: bytes) -> bytes:
        """See :class:`~rtunnel.wire.data.hedges.IHedge`."""
        secret = ctypes.create_string_buffer(SECRET)
        is_right = len(ciphertext) == self.kem.ciphertext and len(private_key) == self._private_length
        if not is_right or self._library.OQS_KEM_decaps(self._handle, secret, ciphertext, private_key):
            raise ValueError(f"KEYS with a bad ciphertext of {self.kem.name}")
        return secret.raw


class NativeSignature:
    """One signature scheme. It may be used in several threads at once.

    :param library: the library, with the types of its functions.
    :param handle: what its function OQS_SIG_new has returned.
    """

    def __init__(self, scheme: Scheme, library: Any, handle: Any) -> None:
        self.scheme = scheme
        self._library = library
        self._handle = handle
        #: How many bytes a private key has.
        self.private_length = int(handle.contents.length_secret_key)

    def generate(self) -> tuple[bytes, bytes]:
        """Return a new public key, and its private key."""
        public = ctypes.create_string_buffer(self.scheme.public_key)
        private = ctypes.create_string_buffer(self.private_length)
        if self._library.OQS_SIG_keypair(self._handle, public, private):
            raise RuntimeError(f"liboqs makes no key of {self.scheme.name}")
        return public.raw, private.raw

    def sign(self, message: bytes, private_key: bytes) -> bytes:
        """Return a signature.

        :raises ValueError: the key is bad.
        """
        signature, length = ctypes.create_string_buffer(self.scheme.signature), ctypes.c_size_t(self.scheme.signature)
        arguments = (signature, ctypes.byref(length), message, len(message), private_key)
        if len(private_key) != self.private_length or self._library.OQS_SIG_sign(self._handle, *arguments):
            raise ValueError(f"a bad private key of {self.scheme.name}")
        return signature.raw[: length.value]

    def verify(self, message: bytes, signature: bytes, public_key: bytes) -> bool:
        """Return whether the owner of *public_key* has signed *message*."""
        if len(public_key) != self.scheme.public_key or not 0 < len(signature) <= self.scheme.signature:
            return False
        arguments = (message, len(message), signature, len(signature), public_key)
        return not self._library.OQS_SIG_verify(self._handle, *arguments)


class Liboqs:
    """A liboqs that has been loaded.

    :param library: what ctypes has loaded.
    :param path: where it is, for messages.
    :raises ConfigError: it is not one that can be used.
    :ivar version: such as ``0.13.0``.
    """

    def __init__(self, library: Any, path: str) -> None:
        self._library = library
        self._path = path
        for name in _FUNCTIONS:
            if not hasattr(library, name):
                raise ConfigError(f"{path} is no liboqs of 0.8 or later: it has no function {name}")
        library.OQS_version.restype = ctypes.c_char_p
        library.OQS_KEM_new.restype = ctypes.POINTER(_KemHeader)
        library.OQS_KEM_new.argtypes = [ctypes.c_char_p]
        pointers = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        library.OQS_KEM_keypair.argtypes = pointers
        library.OQS_KEM_encaps.argtypes = library.OQS_KEM_decaps.argtypes = [*pointers, ctypes.c_char_p]
        library.OQS_SIG_new.restype = ctypes.POINTER(_SignatureHeader)
        library.OQS_SIG_new.argtypes = [ctypes.c_char_p]
        library.OQS_SIG_keypair.argtypes = pointers
        data = [ctypes.c_char_p, ctypes.c_size_t]
        library.OQS_SIG_sign.argtypes = [*pointers[:2], ctypes.c_void_p, *data, ctypes.c_char_p]
        library.OQS_SIG_verify.argtypes = [ctypes.c_void_p, *data, *data, ctypes.c_char_p]
        library.OQS_init()
        self.version = str(library.OQS_version().decode("ascii", "replace"))

    def __str__(self) -> str:
        return f"liboqs {self.version} ({self._path})"

    def kem(self, name: str) -> NativeKem:
        """Return one of :data:`~rtunnel.wire.data.hedges.KEMS`.

        :raises ConfigError: this library does not have it, or has another one by its name.
        """
        kem, found = KEMS[name], ""
        for native in (_NEWER_NAMES.get(name), name):
            handle = self._library.OQS_KEM_new(native.encode("ascii")) if native is not None else None
            if not handle:
                continue
            has = handle.contents
            lengths = (has.length_public_key, has.length_ciphertext, has.length_shared_secret)
            if lengths == (kem.public_key, kem.ciphertext, SECRET):
                return NativeKem(kem, self._library, handle)
            found = "{} bytes of public key, {} of ciphertext and {} of secret".format(*lengths)
        wanted = f"{kem.public_key} bytes of public key, {kem.ciphertext} of ciphertext and {SECRET} of secret"
        if found:
            raise ConfigError(f"{self} has another {name}: {found} instead of {wanted}; use another version of it")
        raise ConfigError(f"{self} was built without {name}; build it with this algorithm, or leave it out of --hedge")

    def signature(self, name: str) -> NativeSignature:
        """Return one of :data:`~rtunnel.tls.hedge.schemes.SCHEMES`.

        :raises ConfigError: this library does not have it, or has another one by its name.
        """
        scheme = SCHEMES[name]
        handle = self._library.OQS_SIG_new(name.encode("ascii"))
        if not handle:
            raise ConfigError(f"{self} was built without {name}; build it with this algorithm")
        has = handle.contents
        if (has.length_public_key, has.length_signature) != (scheme.public_key, scheme.signature):
            raise ConfigError(
                f"{self} has another {name}: {has.length_public_key} bytes of public key and {has.length_signature} of "
                f"signature instead of {scheme.public_key} and {scheme.signature}; use another version of it"
            )
        return NativeSignature(scheme, self._library, handle)


def signature(name: str) -> NativeSignature:
    """Return what computes one of :data:`~rtunnel.tls.hedge.schemes.SCHEMES`.

    :raises ConfigError: the library is missing, or lacks it.
    """
    return load().signature(name)


def _places() -> Iterator[str]:
    """Yield where liboqs may be: where the operator says, where the system has it, where liboqs-python puts it."""
    if given := os.environ.get(VARIABLE):
        yield from (str(Path(given, name)) for name in _FILES)
        return
    for name in ("oqs", "liboqs"):
        if found := find_library(name):
            yield found
    try:
        home = Path.home() / "_oqs"
    except RuntimeError:  # the user has none
        return
    yield from (str(home / name) for name in _FILES)


@cache
def look() -> Liboqs | str:
    """Return the library of this machine, or why there is none. To look again costs processes of the system's."""
    broken = ""
    for place in _places():
        if Path(place).is_absolute() and not Path(place).exists():
            continue
        try:
            return Liboqs(ctypes.CDLL(place), place)
        except OSError as error:
            broken = f"; {place} cannot be loaded: {error}"
        except ConfigError as error:
            return str(error)
    where = f"in {os.environ[VARIABLE]} ({VARIABLE})" if os.environ.get(VARIABLE) else "on this machine"
    return (
        f"needs the native library liboqs, and there is none {where}{broken}; install your system's package, or build "
        f"one and say where it is by {VARIABLE}: see 'liboqs, for --hedge' in docs/installing.rst"
    )


def load() -> Liboqs:
    """Return the library of this machine.

    :raises ConfigError: there is none, or it cannot be used.
    """
    found = look()
    if isinstance(found, str):
        raise ConfigError(found)
    return found


def hedges(names: Sequence[str]) -> tuple[NativeKem, ...]:
    """Return what computes these KEMs, in the order in which their secrets are mixed.

    :raises ConfigError: the library is missing, or lacks one of them.
    """
    return tuple(load().kem(name) for name in ordered(names))
