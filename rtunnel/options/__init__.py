"""The command lines: settings, the ``twistd`` plugins, ``rtunnel pki``. Only this room uses the global reactor."""
