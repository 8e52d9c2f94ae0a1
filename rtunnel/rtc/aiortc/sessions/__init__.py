"""ICE sessions, one after another on one connection (ICE restart, RFC 8445, section 9), and how a path is watched."""
