"""What carries a visitor's stream between server and client: the link, or a data connection."""
