"""Record connections: how a stream travels on a TCP connection of its own (docs/wire.rst, "Data connections")."""
