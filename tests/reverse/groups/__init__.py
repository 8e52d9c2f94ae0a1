"""Groups of clients: who joins, who gets a visitor, who goes."""
