"""Tests of KEMs beside those of TLS."""
