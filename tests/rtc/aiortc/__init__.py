"""ICE, SCTP and peer connections on aiortc."""
