"""The command lines: settings, the plugins of ``twistd``, ``rtunnel pki``. Only here the global reactor is used."""
