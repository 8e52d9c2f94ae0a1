"""What works on the way to the other end, step by step, for ``rtunnel doctor``.

Each examination makes connections of its own, which ask for nothing and end at once. So a service of the same
configuration that runs meanwhile keeps its session, its ports and its ID.

    Examination   runs the steps, each with a bound in time
     +-- Reach    name, route, port
     +-- tunnel   the reverse tunnel, as a client sees it
     +-- webrtc   the WebRTC tunnel, as a host or client sees it
     +-- local    the local services
"""
