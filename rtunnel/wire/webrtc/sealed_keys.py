"""The keys of a sealed peer connection (docs/wire.rst, "Sealed peer connections").

    KEYS of both ends, and the exporter of TLS on the control channel --> root --> three keys for each channel

What the exporter is asked for names both identities and both certificates of DTLS. Whoever has put another certificate
of DTLS between the ends has made their roots differ, so nothing that one seals can be opened by the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from rtunnel.wire.data.seal import expand

#: The label for the exporter (RFC 8446, section 7.5), with which roots are made, and how many bytes are wanted of it.
EXPORTER_LABEL = b"EXPORTER-rtunnel-webrtc"
EXPORTER_LENGTH = 32
#: The label for what second keys sign.
SECOND_LABEL = b"EXPORTER-rtunnel-webrtc-second"
#: The largest ordinal: it is sent in 64 bits.
MAX_ORDINAL = 2**64 - 1


class Side(StrEnum):
    """An end of a peer connection. The host is the server of TLS."""

    CLIENT = "client"
    HOST = "host"

    @property
    def other(self) -> Side:
        """The other end."""
        return Side.CLIENT if self is Side.HOST else Side.HOST


@dataclass(frozen=True, slots=True)
class Ends:
    """Who is at the ends of a peer connection, and over what. Each is a SHA-256, 32 bytes.

    :ivar host: of the host's identity, its certificate in DER.
    :ivar client: of the client's.
    :ivar host_dtls: of the certificate that the host has in DTLS, in DER.
    :ivar client_dtls: of the client's.
    """

    host: bytes
    client: bytes
    host_dtls: bytes
    client_dtls: bytes

    @property
    def context(self) -> bytes:
        """All of them, 128 bytes."""
        return self.host + self.client + self.host_dtls + self.client_dtls

    def exporter_context(self, keys: bytes) -> bytes:
        """Return the context for the exporter, 160 bytes.

        :param keys: SHA-256 of the client's KEYS and the host's behind it.
        """
        return self.context + keys


def bind_key(root: bytes, side: Side) -> bytes:
    """Return what an end puts into its BIND to show that it has this root, 32 bytes.

    :param root: the 32 bytes of :class:`rtunnel.wire.data.keys.Root`.
    :param side: which end.
    """
    return expand(root, b"rtunnel bind " + side.encode())


@dataclass(frozen=True, slots=True)
class ChannelKeys:
    """The secrets of one channel, 32 bytes each.

    :ivar open: seals what the channel is for, once.
    :ivar client: for what the client sends on it.
    :ivar host: for what the host sends on it.
    """

    open: bytes = field(repr=False)
    client: bytes = field(repr=False)
    host: bytes = field(repr=False)


def channel_keys(root: bytes, opener: Side, ordinal: int) -> ChannelKeys:
    """Return the secrets of a channel.

    :param root: the 32 bytes of :class:`rtunnel.wire.data.keys.Root`.
    :param opener: which end has opened it.
    :param ordinal: which one of that end it is, 0 to :data:`MAX_ORDINAL`.
    """
    secret = expand(root, b"rtunnel channel " + opener.encode() + ordinal.to_bytes(8, "big"))
    return ChannelKeys(
        expand(secret, b"rtunnel open"), expand(secret, b"rtunnel client"), expand(secret, b"rtunnel host")
    )
