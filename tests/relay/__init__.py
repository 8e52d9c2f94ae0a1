"""The relay with fake sockets, and with real ones."""
