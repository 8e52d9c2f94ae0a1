"""The UDP path of a link: sealed packets, the messages in them, pieces, path MTU, and the address of the other end."""
