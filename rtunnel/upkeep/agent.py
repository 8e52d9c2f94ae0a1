"""The name and version that our ends send to each other."""

from __future__ import annotations

from rtunnel import __version__

#: The ``agent`` of HELLO (docs/wire.rst), and the User-Agent of a WebSocket's request.
AGENT = f"rtunnel/{__version__}"
