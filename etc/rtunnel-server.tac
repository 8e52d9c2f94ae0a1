"""rtunnel-server as a Twisted application: ``twistd -ny rtunnel-server.tac``.

Settings come from the environment (RTUNNEL_ variables) and from the file that RTUNNEL_CONFIG names.
"""

from rtunnel.options.plugins import rtunnel_server, run

application = run.application(rtunnel_server.NAME, rtunnel_server.Options, rtunnel_server.makeService)
