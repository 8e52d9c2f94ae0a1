"""What ``twistd`` lists; the modules named here are imported only when their command runs."""

from twisted.application.service import ServiceMaker

rtunnel_server = ServiceMaker(
    "rtunnel server",
    "rtunnel.options.server",
    "Public end of a reverse tunnel: passes visitors on to services behind rtunnel-client.",
    "rtunnel-server",
)
rtunnel_client = ServiceMaker(
    "rtunnel client",
    "rtunnel.options.client",
    "Private end of a reverse tunnel: dials rtunnel-server and serves visitors from local services.",
    "rtunnel-client",
)
