"""The protocols of docs/wire.rst, without a reactor, a socket or a clock.

The facade is :class:`~rtunnel.wire.link.Link`, the state machine of one end of a link: it takes bytes, and returns
bytes and events. Every event is one of the classes in :mod:`rtunnel.wire.events`.
"""
