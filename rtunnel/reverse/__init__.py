"""The reverse tunnel: a server on a public machine, a client beside the private service, one link between them."""
