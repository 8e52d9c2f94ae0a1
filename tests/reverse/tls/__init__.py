"""The reverse tunnel over TLS, both ends in one process."""
