"""rtunnel-client as a Twisted application: ``twistd -ny rtunnel-client.tac``.

Settings come from the environment (RTUNNEL_ variables) and from the file that RTUNNEL_CONFIG names.
"""

from rtunnel.options.plugins import rtunnel_client, run

application = run.application(rtunnel_client.NAME, rtunnel_client.Options, rtunnel_client.makeService)
