"""The links of a client: one or several, each to a server of its own."""
