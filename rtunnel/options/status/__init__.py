"""``rtunnel status``."""
