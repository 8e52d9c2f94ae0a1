"""What the operator may write for key exchanges and pins."""

from __future__ import annotations

import pytest

from rtunnel.errors import ConfigError
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.policy import GROUPS, parse_groups, parse_pins


def test_groups() -> None:
    assert parse_groups("mlkem768, X25519MLKEM768:MLKEM768") == ("MLKEM768", "X25519MLKEM768")
    assert parse_groups(":".join(GROUPS)) == GROUPS
    for text in ("X25519", "P-256", "MLKEM768,x25519", "", "secp256r1", "MLKEM768,"):
        with pytest.raises(ConfigError, match="is not a post-quantum group"):
            parse_groups(text)
    with pytest.raises(ConfigError, match="did you mean 'MLKEM768'"):
        parse_groups("MLKEM678")


def test_groups_are_offered_in_this_order(client: Credentials) -> None:
    """Hybrids first, then the pure ones as the reference programs have them (TLS's registry of supported groups)."""
    engine = TlsEngine(client)
    engine.start()
    numbers = (0x11EC, 0x11EB, 0x11ED, 0x0201, 0x0200, 0x0202)
    offered = b"".join(number.to_bytes(2, "big") for number in numbers)
    # supported_groups (10), its length, and that of the list
    assert b"\x00\x0a\x00\x0e\x00\x0c" + offered in engine.output()


def test_pins() -> None:
    one, two = "ab" * 32, "cd" * 32
    assert parse_pins(one.upper()) == {one}
    assert parse_pins(f"{one}, sha256:{two}") == {one, two}
    assert parse_pins(":".join(["AB"] * 32)) == {one}
    assert parse_pins("SHA256=" + ":".join(["AB"] * 32)) == {one}
    for text in ("", "abc", one + "0", one[:-1] + "g", f"{one},"):
        with pytest.raises(ConfigError, match="is not the SHA-256 fingerprint"):
            parse_pins(text)
