"""The transport below DTLS, whichever ICE session is in use.

aiortc's DTLS takes its transport's ``_send``, ``_recv`` and ``role``, and nothing else. So this stands in for aiortc's
``RTCIceTransport``, which is made for one agent.
"""

from __future__ import annotations

from rtunnel.rtc.aiortc.ice import IceAgent


class IceTransport:
    """Sends over the path of the agent in use, and takes what comes over that of any.

    :ivar agent: the one in use.
    """

    def __init__(self, agent: IceAgent) -> None:
        self.agent = agent
        self._queue = agent._queue
        self._is_over = False

    @property
    def role(self) -> str:
        """See aiortc."""
        return "controlling" if self.agent.ice_controlling else "controlled"

    def listen_to(self, agent: IceAgent) -> None:
        """Take what comes over the paths of another agent too. Call this before it gathers."""
        agent._queue = self._queue

    def end(self) -> None:
        """Let DTLS see the end."""
        self._is_over = True
        self._queue.put_nowait(None)

    async def _send(self, data: bytes) -> None:
        """Send a packet. It is lost while there is no path: that of the agent has failed, and another is looked for.

        :raises ConnectionError: the transport has ended.
        """
        if self._is_over:
            raise ConnectionError("there is no path any more")
        if self.agent.selected is not None:
            await self.agent.send(data)

    async def _recv(self) -> bytes:
        """Return the next packet.

        :raises ConnectionError: the transport has ended.
        """
        while not self._is_over:
            received = await self._queue.get()
            # An agent that closes leaves a None.
            if received is not None:
                return received[0]
        raise ConnectionError("there is no path any more")
