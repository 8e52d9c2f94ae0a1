"""The operator's certificates: an authority, the directory it keeps them in, and bundles to carry to other machines."""
