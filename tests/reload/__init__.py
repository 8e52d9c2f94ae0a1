"""Settings that are read again while the process runs."""
