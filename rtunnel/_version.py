"""
Provides rtunnel version information.
"""

# This file is auto-generated! Do not edit!
# Use `python -m incremental.update rtunnel` to change this file.

from incremental import Version

__version__ = Version("rtunnel", 26, 11, 0, dev=0)
__all__ = ["__version__"]
