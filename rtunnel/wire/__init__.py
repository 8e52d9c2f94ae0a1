"""Bytes to meaning and back: what travels on a link, without a reactor, a socket or a clock.

The facade is :class:`Link`, the state machine of one end of a link: bytes in, events out; bytes out. Everything that
it tells is one of the classes in :mod:`rtunnel.wire.events`.
"""
