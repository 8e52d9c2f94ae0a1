"""The declaration of every setting, and how its value is read from the command line, the environment and the file."""
