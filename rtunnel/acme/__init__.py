"""Certificates from a CA that speaks ACME (RFC 8555), for names whose TLS ends at the client."""
