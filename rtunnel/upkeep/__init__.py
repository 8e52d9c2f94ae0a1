"""What the services of both tunnels share: listening sockets, draining, back-off, rate limits, and watched files."""

from rtunnel import __version__

#: The name and version that our ends send to each other: the ``agent`` of HELLO (docs/wire.rst), and the User-Agent of
#: a WebSocket's request.
AGENT = f"rtunnel/{__version__}"
