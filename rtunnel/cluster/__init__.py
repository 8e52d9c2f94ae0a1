"""The directory that the nodes of a cluster share: who holds what, who is there, and what they tell each other."""
