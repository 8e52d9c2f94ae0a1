"""What our ends call themselves."""

from __future__ import annotations

from rtunnel import __version__

#: The ``agent`` of HELLO.
AGENT = f"rtunnel/{__version__}"
