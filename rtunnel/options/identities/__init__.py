"""Who the ends of the WebRTC tunnel are, and whom they trust: the settings, and ``rtunnel id``."""
