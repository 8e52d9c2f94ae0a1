"""Key exchanges beside those of TLS, computed by a native liboqs (docs/security.rst, "More kinds of mathematics").

Only :mod:`rtunnel.tls.hedge.liboqs` loads the library, and nothing imports that before ``--hedge`` is given.
"""
