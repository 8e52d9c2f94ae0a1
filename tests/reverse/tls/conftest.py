"""The fixtures of ``tests/tls``: a CA, and the two ends of a tunnel in this process."""

from __future__ import annotations

from tests.tls.conftest import _look_at_openssl_again, authority, client, ends, first_authority, lines, server

__all__ = ["_look_at_openssl_again", "authority", "client", "ends", "first_authority", "lines", "server"]
