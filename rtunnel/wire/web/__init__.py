"""What visitors of host names say: the ClientHello of TLS, and HTTP/1.1."""
