"""Settings that are read again while the process runs: what has changed is applied, and nothing else is touched."""
