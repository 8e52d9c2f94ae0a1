"""Data channels on our own SCTP."""
