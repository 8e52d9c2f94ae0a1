"""Two tunnels to services behind a NAT, as twistd plugins: through a public server, and peer to peer over WebRTC."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (pip checks this, but a checkout needs no pip)
    sys.exit("rtunnel needs Python 3.11 or later, and this is {}.{}".format(*sys.version_info))

from rtunnel._version import __version__ as _version

__version__: str = _version.public()

__all__ = ["__version__"]
