"""The messages and states of data channels, without a network."""
