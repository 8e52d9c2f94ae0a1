"""SCTP (RFC 9260) for data channels (RFC 8831): an association without sockets and without a clock.

Packets and commands go in, packets and events come out; the caller says what time it is. DTLS carries the packets, so
that only the peer can have sent them, and so there is one association, one path and no address in it.

    association     the whole: what comes in, what happened, when the next packet is due;  events, limits
      handshake       four packets, and what both ends are able to do
      transmitting    what goes into a packet
        scheduler       which message goes next
        sending         what was sent and is not acknowledged
        path            what is known of the path (RFC 8985, RFC 9438, RFC 9406, RFC 8899)
      receiving       what was received;  reassembly: messages out of chunks
      reset           streams that begin anew (RFC 6525)
      codec, chunks, serial    bytes, and numbers that wrap

Numbers (TSN, SSN, MID) are ints without bound everywhere; only the codec knows how many bits of them travel.
"""
