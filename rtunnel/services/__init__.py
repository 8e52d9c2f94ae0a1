"""Local services, which are at our own side: whether they answer, and their UDP flows."""
