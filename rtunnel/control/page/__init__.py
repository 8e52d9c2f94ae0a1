"""The page that shows what a process does, and the events that keep it up to date."""
