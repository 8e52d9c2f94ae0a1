"""rtc-signal as a Twisted application: ``twistd -ny rtc-signal.tac``.

Settings come from the environment (RTUNNEL_ variables) and from the file that RTUNNEL_CONFIG names, or else from
config.yaml in the current directory.
"""

from rtunnel.options.plugins import rtc_signal, run

application = run.application(rtc_signal.NAME, rtc_signal.Options, rtc_signal.makeService)
