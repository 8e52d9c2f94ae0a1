"""One module per plugin, with its ``Options`` and its ``makeService``; logging, start and exit of the process."""
