"""The commands that change what a running process does."""
