"""The relay against a socket that is not there, and against real ones."""
