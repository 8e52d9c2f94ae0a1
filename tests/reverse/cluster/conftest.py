"""The fixtures of this folder."""

from __future__ import annotations

from tests.tls.conftest import authority, first_authority

__all__ = ["authority", "first_authority"]
