"""Tests of who is trusted."""
