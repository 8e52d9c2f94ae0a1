"""Visitors on data connections who stay while this process ends and the next one starts (docs/architecture.rst)."""
