"""Tests of what clients may do at a host."""
