"""Bandwidth: who may pass how much, in both tunnels, and a local socket's end that keeps to it."""
