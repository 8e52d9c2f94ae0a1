"""What ``twistd`` lists; the modules named here are imported only when their command runs."""

from twisted.application.service import ServiceMaker

rtunnel_server = ServiceMaker(
    "rtunnel server",
    "rtunnel.options.plugins.rtunnel_server",
    "Public end of a reverse tunnel: passes visitors on to services behind rtunnel-client.",
    "rtunnel-server",
)
rtunnel_client = ServiceMaker(
    "rtunnel client",
    "rtunnel.options.plugins.rtunnel_client",
    "Private end of a reverse tunnel: dials rtunnel-server and serves visitors from local services.",
    "rtunnel-client",
)
rtc_signal = ServiceMaker(
    "rtunnel rtc signal",
    "rtunnel.options.plugins.rtc_signal",
    "Signaling server of a WebRTC tunnel: rtc-host and rtc-client find each other through it.",
    "rtc-signal",
)
rtc_host = ServiceMaker(
    "rtunnel rtc host",
    "rtunnel.options.plugins.rtc_host",
    "Private end of a WebRTC tunnel: connects clients to local services.",
    "rtc-host",
)
rtc_client = ServiceMaker(
    "rtunnel rtc client",
    "rtunnel.options.plugins.rtc_client",
    "User's end of a WebRTC tunnel: local ports that lead to the services of an rtc-host.",
    "rtc-client",
)
