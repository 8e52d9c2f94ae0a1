"""One module per plugin: its ``Options`` and its ``makeService``. Only here is the global reactor touched."""
