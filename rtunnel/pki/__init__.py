"""The operator's certificates: a CA, the directory that holds them, and bundles to carry to other machines."""
