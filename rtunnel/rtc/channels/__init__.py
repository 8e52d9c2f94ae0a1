"""Data channels (RFC 8831, RFC 8832) on SCTP of our own, whatever carries their packets."""
