"""Tests of what is built and installed, each in a fresh virtual environment."""
