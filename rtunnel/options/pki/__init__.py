"""``rtunnel pki``: the command line of :mod:`rtunnel.pki`."""
