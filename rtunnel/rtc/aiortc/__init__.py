"""ICE, DTLS and SCTP on aiortc and aioice. Only this folder imports them."""
