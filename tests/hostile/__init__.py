"""Hostile peers against real processes, beside honest ones that must lose nothing; see ``harness.py``."""
