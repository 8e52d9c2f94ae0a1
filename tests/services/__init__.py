"""Local services: whether they answer, and flows to them."""
