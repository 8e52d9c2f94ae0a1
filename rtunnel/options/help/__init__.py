"""What is written from the declarations of commands and options: completion for shells, and manual pages."""
