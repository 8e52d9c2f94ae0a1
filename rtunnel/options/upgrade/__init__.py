"""``rtunnel upgrade``: a new process takes the place of a running one, which lets its visitors finish.

    old                                          new
    starts the installed version        ---->    reads its settings, builds its service
                                        <----    hello: which hand-over it speaks
    its listening sockets, and its state ---->   listens on them, and accepts nothing yet
                                        <----    ready
    accepts nothing, writes nothing; go ---->    starts
                                        <----    started: it accepts, a client has its link
    lets go of its links; ends when its visitors have gone

Until ``started``, whatever goes wrong ends the new process, and the old one goes on as ever.
"""
