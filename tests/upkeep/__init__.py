"""Tests of what the services of both tunnels share."""
