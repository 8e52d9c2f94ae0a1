"""The former name of :mod:`rtunnel.upkeep.log_limiter`."""

from __future__ import annotations

from rtunnel.upkeep.log_limiter import LogLimiter

FewLines = LogLimiter
