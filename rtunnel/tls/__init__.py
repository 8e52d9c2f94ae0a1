"""Who is there: TLS 1.3 with a post-quantum key exchange and certificates at both ends; TLS of the web."""
