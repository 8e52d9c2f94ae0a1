#!/usr/bin/env bash
# httptools 0.9.0: the body of a request that offers an upgrade is not parsed, and the message is reported complete.
#
# A request with "Connection: Upgrade" may have a body, and is complete only behind it; then the server upgrades, or
# ignores the offer and answers (RFC 9110, section 7.8). Clients that offer "Upgrade: h2c" send it with POST as well.
# httptools calls on_message_complete() behind the header section, without on_body(), and raises HttpParserUpgrade with
# the offset of the body. A server that ignores the offer, as most do, has an empty request and must parse the body
# itself. llhttp, on which httptools builds, would read it: httptools tells it that there is none whenever an upgrade is
# offered. Reported as issue 124 of httptools.
#
# Expected: the body, then the end of the message, then the upgrade, as h11 0.16.0 does. Seen: the end, and the upgrade
# with the body unread.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install httptools==0.9.0 h11==0.16.0
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

import h11
import httptools

POST = b"POST / HTTP/1.1\r\nHost: example.org\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
BODIES = {
    "Content-Length": (b"Content-Length: 4\r\n\r\n", b"body"),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nbody\r\n0\r\n\r\n"),
}


class Events(list):
    def on_body(self, data):
        self.append(data)

    def on_message_complete(self):
        self.append("end")


def by_httptools(head, body):
    """What httptools reports of the request; at an upgrade, also what it leaves unread."""
    events = Events()
    try:
        httptools.HttpRequestParser(events).feed_data(head + body)
    except httptools.HttpParserUpgrade as upgrade:
        events += ["upgrade, unread:", (head + body)[upgrade.args[0] :]]
    return events


def by_h11(head, body):
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head + body)
    events = []
    while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        if isinstance(event, h11.Data):
            events.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            events.append("end")
    return events


for package in ("httptools", "h11"):
    print(package, importlib.metadata.version(package))
as_seen = True
for framing, (field, body) in BODIES.items():
    plain = by_httptools(POST + field, body)
    offered = by_httptools(POST + OFFER + field, body)
    beside = by_h11(POST + OFFER + field, body)
    print(f"{framing}: httptools {plain}; with an offer {offered}; h11 with an offer {beside}")
    as_seen &= plain == beside == [b"body", "end"] and offered == ["end", "upgrade, unread:", body]
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
