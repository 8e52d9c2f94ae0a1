"""rtc-client as a Twisted application: ``twistd -ny rtc-client.tac``.

Settings come from the environment (RTUNNEL_ variables) and from the file that RTUNNEL_CONFIG names, or else from
config.yaml in the current directory.
"""

from rtunnel.options.plugins import rtc_client, run

application = run.application(rtc_client.NAME, rtc_client.Options, rtc_client.makeService)
