"""Who the ends are, whom they accept, and what a client may do at a host."""
