"""rtc-host as a Twisted application: ``twistd -ny rtc-host.tac``.

Settings come from the environment (RTUNNEL_ variables) and from the file that RTUNNEL_CONFIG names, or else from
config.yaml in the current directory.
"""

from rtunnel.options.plugins import rtc_host, run

application = run.application(rtc_host.NAME, rtc_host.Options, rtc_host.makeService)
