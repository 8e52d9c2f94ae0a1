"""Datagrams: sockets, system calls for many at once, and flows of visitors."""
