"""Sphinx builds the documents by this: ``make docs``."""

from importlib.metadata import version as version_of

project = "rtunnel"
author = "the rtunnel contributors"
version = release = version_of("rtunnel")

exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"rtunnel {release}"
# Most blocks are diagrams, log lines or shell commands with placeholders in them.
highlight_language = "none"
nitpicky = True
