"""rtunnel-server as a Twisted application: ``twistd -ny rtunnel-server.tac``.

Settings come from the environment (RTUNNEL_ variables) and from the file that RTUNNEL_CONFIG names.
"""

from rtunnel.options import run, server

application = run.application(server.NAME, server.Options, server.makeService)
