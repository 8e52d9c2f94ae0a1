"""rtunnel-client as a Twisted application: ``twistd -ny rtunnel-client.tac``.

Settings come from the environment (RTUNNEL_ variables) and from the file that RTUNNEL_CONFIG names.
"""

from rtunnel.options import client, run

application = run.application(client.NAME, client.Options, client.makeService)
