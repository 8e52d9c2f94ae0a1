"""What a process can be asked to do: at its control socket, by a JSON object, and nowhere else."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from rtunnel.addresses import ListenAddress
from rtunnel.control.actions.perform import MOST_BODY, Actions, only, text
from rtunnel.control.ask import NoAnswer, NotDone, tell
from rtunnel.control.service import ControlService
from rtunnel.control.settings import StatusSettings
from rtunnel.errors import ConfigError
from tests.patience import PATIENCE

NAME = "rtunnel-test"
JSON = b"Content-Type: application/json"


class Process:
    """A process that can be asked for four things."""

    def __init__(self, directory: Path) -> None:
        self.asked: list[dict[str, Any]] = []
        self.later: Deferred[dict[str, Any]] = Deferred()
        actions: Actions = {"note": self._note, "later": self._later, "refuse": self._refuse, "break": self._break}
        status = StatusSettings(ListenAddress.parse("127.0.0.1:0"))
        environ = {"RUNTIME_DIRECTORY": str(directory)}
        self.service = ControlService(reactor, NAME, lambda: {"problems": [], "ready": True}, status, actions, environ)
        self.path = directory / f"{NAME}-{os.getpid()}.sock"

    def _note(self, asked: dict[str, Any]) -> dict[str, Any]:
        only(asked, "what", "more")
        self.asked.append(asked)
        return {"noted": text(asked, "what")}

    def _later(self, _asked: dict[str, Any]) -> Deferred[dict[str, Any]]:
        return self.later

    async def _refuse(self, _asked: dict[str, Any]) -> dict[str, Any]:
        raise ConfigError("not today")

    def _break(self, _asked: dict[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError

    def tell(self, action: str, asked: dict[str, Any], timeout: float = PATIENCE) -> Deferred[dict[str, Any]]:
        return deferToThread(tell, self.path, action, asked, timeout)

    def raw(self, data: bytes, *, port: int = 0) -> Deferred[bytes]:
        def talk() -> bytes:
            with socket.socket(socket.AF_INET if port else socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE)
                connection.connect(("127.0.0.1", port) if port else str(self.path))
                connection.sendall(data)
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
                return answer

        return deferToThread(talk)

    @property
    def status_port(self) -> int:
        [listener] = self.service
        return int(listener.local_address.rpartition(":")[2])


def request(body: bytes, path: bytes = b"/v1/note", kind: bytes = JSON) -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\nContent-Length: %d\r\n\r\n"
    return head % (path, kind, len(body)) + body


@pytest.fixture
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("a"))
    process.service.privilegedStartService()
    process.service.startService()
    yield process
    pytest_twisted.blockon(process.service.stopService())


@ensureDeferred
async def test_it_does_what_it_is_asked(process: Process) -> None:
    assert await process.tell("note", {"what": "mülk"}) == {"ok": True, "noted": "mülk"}
    assert process.asked == [{"what": "mülk"}]


@ensureDeferred
async def test_an_answer_may_come_later(process: Process) -> None:
    answer = process.tell("later", {})
    reactor.callLater(0.05, process.later.callback, {"took": "a while"})
    assert await answer == {"ok": True, "took": "a while"}


@ensureDeferred
async def test_whoever_does_not_wait_for_the_answer_harms_nobody(process: Process) -> None:
    with pytest.raises(NoAnswer, match=r"does not answer within 0\.2 s"):
        await process.tell("later", {}, 0.2)
    process.later.callback({})
    assert (await process.tell("note", {}))["ok"]


@ensureDeferred
async def test_why_it_was_not_done(process: Process) -> None:
    with pytest.raises(NotDone, match=r"^not today$"):
        await process.tell("refuse", {})
    with pytest.raises(NotDone, match=r"the key 'wat' is unknown; known: 'what', 'more'"):
        await process.tell("note", {"wat": 1})
    with pytest.raises(NotDone, match="'what' must be a text"):
        await process.tell("note", {"what": 1})
    with pytest.raises(NotDone, match=r"this process takes POST at /v1/note, /v1/later, "):
        await process.tell("sing", {})


@ensureDeferred
async def test_a_fault_of_ours_is_in_the_log(process: Process, flush_logged_errors: Callable[..., Any]) -> None:
    with pytest.raises(NotDone, match="the log has it"):
        await process.tell("break", {})
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


@ensureDeferred
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"{}"), 200),
        (request(b"{}", kind=b"Content-Type: Application/JSON; charset=utf-8"), 200),
        (request(b"{}", kind=b"X: y"), 400),
        (request(b"{}", kind=b"Content-Type: text/plain"), 400),
        (request(b"what=1", kind=b"Content-Type: application/x-www-form-urlencoded"), 400),
        (request(b""), 400),
        (request(b"[]"), 400),
        (request(b'{"what": '), 400),
        (request(b"[" * 60_000), 400),
        (request(b"\xff\xfe"), 400),
        (request(b'{"what": "%s"}' % (b"x" * (MOST_BODY - 12))), 200),
        (request(b'{"what": "%s"}' % (b"x" * (MOST_BODY - 11))), 413),
        (request(bytes(1_000_000)), 413),
        (request(b"{}", b"/v1/sing"), 404),
        (request(b"{}", b"/note"), 404),
        (request(b"{}", b"/v1/status"), 405),
        (request(b"{}").replace(b"POST", b"PUT"), 405),
        (request(b"{}").replace(b"POST", b"GET"), 404),
    ],
)
async def test_requests(process: Process, sent: bytes, status: int) -> None:
    head, _, body = (await process.raw(sent)).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status, head
    found = json.loads(body)
    assert found.get("ok", False) is (status == 200)
    assert ("error" in found) is (status != 200)
    assert len(process.asked) == (status == 200)


@ensureDeferred
async def test_nothing_can_be_asked_for_at_the_status_port(process: Process) -> None:
    for path in (b"/v1/note", b"/v1/status", b"/v1/sing"):
        answer = await process.raw(request(b"{}", path), port=process.status_port)
        assert answer.startswith(b"HTTP/1.1 405 "), answer
    assert not process.asked
