"""TLS 1.3 with a post-quantum key exchange and certificates at both ends, for links; web TLS, for ``wss``."""
