"""Fuzz one target, with options of libFuzzer: ``python -m tests.fuzz.one TARGET [OPTIONS] DIRECTORY...``."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["rtunnel"]):
    from tests.fuzz.targets import TARGETS

name = sys.argv.pop(1)
atheris.Setup(sys.argv, TARGETS[name])
atheris.Fuzz()
