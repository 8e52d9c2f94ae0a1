"""What host and client do on a peer connection beyond what they have in common (:mod:`rtunnel.rtc.peer`)."""
