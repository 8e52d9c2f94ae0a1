"""Parsers against bytes that nobody thought of: coverage-guided fuzzing by atheris (libFuzzer).

    make fuzz                                                  each target for a minute
    make fuzz FUZZ_ARGS="--seconds 3600 description config"    two of them for an hour each

``targets.py`` has a function for each parser, which takes any bytes and raises nothing. ``corpus/`` has bytes for each
target: those to begin with, and those that have once broken it. ``test_corpus.py`` runs all of them in each test run.
Bytes that break a target are written into its corpus, so from then on that test fails until the parser is mended.
"""
