"""``rtunnel doctor``."""
