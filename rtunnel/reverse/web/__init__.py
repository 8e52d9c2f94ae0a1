"""HTTP by host name: requests of visitors, the streams on which they go on, and the answers."""
