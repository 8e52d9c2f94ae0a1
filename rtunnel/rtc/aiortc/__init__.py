"""ICE, DTLS and SCTP by aiortc and aioice, which only this folder imports."""
