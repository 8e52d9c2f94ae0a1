"""``rtunnel-server``: many clients on a control port, their visitors on public ports."""
