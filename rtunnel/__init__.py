"""Two tunnels to services behind a NAT, as twistd plugins: through a public server, and peer to peer over WebRTC."""

from rtunnel._version import __version__ as _version

__version__: str = _version.public()

__all__ = ["__version__"]
