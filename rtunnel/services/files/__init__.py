"""A directory as a local service: the files in it by HTTP, for reading only."""
