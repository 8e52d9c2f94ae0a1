"""A switchboard without a socket."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger

from rtunnel.rtc.signaling.party import Line, Party, State
from rtunnel.rtc.signaling.switchboard import Switchboard
from rtunnel.upkeep.log_limiter import LogLimiter

SDP = {"sdp": {"type": "offer", "sdp": "v=0"}, "rtunnel": {"version": 1}, "new": [1.5, None, "ü"]}


class FakeLine:
    """What the switchboard did to a connection."""

    def __init__(self, board: Switchboard, name: str = "192.0.2.1:1") -> None:
        self.board = board
        self.peer_name = name
        self.party = Party(self)
        self.sent: list[dict[str, Any]] = []
        self.close_code = 0
        self.asked = 0
        self.offers = 0
        self.admissions = 0

    is_slow = False
    has_room = True
    budget_key = "192.0.2.1"

    def send(self, text: bytes) -> None:
        assert not self.close_code
        self.sent.append(json.loads(text))

    def close(self, code: int, reason: str) -> None:
        assert not self.close_code
        self.close_code = code

    def probe(self) -> None:
        self.asked += 1

    def admitted(self) -> None:
        self.admissions += 1

    def takes_offer_of(self, sender: Line) -> bool:
        self.offers += self.has_room
        return self.has_room

    # What the other end does

    def say(self, kind: object, sender: str = "", target: str = "", payload: object = None, key: str = "") -> None:
        value = {"type": kind, "payload": payload, "target_id": target, "sender_id": sender, "key": key}
        self.say_text(json.dumps({key: each for key, each in value.items() if each != ""}).encode())

    def say_text(self, text: bytes) -> None:
        self.board.receive(self.party, text)

    def leave(self) -> None:
        self.board.left(self.party)

    def take(self) -> dict[str, Any]:
        return self.sent.pop(0)

    def take_error(self, about: str = "") -> str:
        message = self.take()
        assert message.pop("type") == "error"
        text = message.pop("payload")
        assert message == ({"sender_id": about} if about else {})
        assert isinstance(text, str)
        return text


class Board(Switchboard):
    """With parties ready-made."""

    def __init__(self, hosts: int = 10, clients: int = 10, max_message: int = 65536) -> None:
        #: By whom invitations were tried, and how many more may be.
        self.tries: list[object] = []
        self.tries_left = 10
        super().__init__(hosts, clients, max_message, LogLimiter(Logger(), Clock()), self._may_try)

    def _may_try(self, sender: object) -> bool:
        self.tries.append(sender)
        return len(self.tries) <= self.tries_left

    def line(self) -> FakeLine:
        return FakeLine(self)

    def host(self, name: str = "host") -> FakeLine:
        line = self.line()
        line.say("register-host", name)
        assert line.party.state is State.REGISTERED
        return line

    def client(self, name: str = "client", target: str = "host") -> FakeLine:
        line = self.line()
        line.say("offer", name, target, SDP)
        assert line.party.state is State.REGISTERED
        return line
