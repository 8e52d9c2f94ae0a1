"""Every setting, declared once, and how it is read from the command line, the environment and the file."""
