"""Moving bytes between a local socket and a stream, whatever carries the stream."""
