"""A reverse TCP tunnel as twistd plugins: a service behind a NAT becomes reachable through a public machine."""

from rtunnel._version import __version__ as _version

__version__: str = _version.public()

__all__ = ["__version__"]
