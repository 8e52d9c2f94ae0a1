"""Tests of rtunnel: pure ones, two ends back to back, and real processes."""
