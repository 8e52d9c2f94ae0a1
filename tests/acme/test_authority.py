"""An ACME server that answers nonsense: each order fails with one clear line, and in bounded memory."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rtunnel.acme import authority
from rtunnel.acme.authority import OrderFailed, obtain
from rtunnel.acme.renewal import LONGEST_ASKED
from rtunnel.acme.settings import CHALLENGES, HTTP_01, AcmeSettings
from rtunnel.acme.state import State
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.pebble import self_signed

NAME = "app.example.org"
NONCE = "bm9uY2U"
Answer = tuple[int, dict[str, str], bytes]


def answer(body: object, status: int = 200, **headers: str) -> Answer:
    """JSON with a nonce."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = {"Content-Type": "application/json" if status < 400 else "application/problem+json", "Replay-Nonce": NONCE}
    return status, found | {name.replace("_", "-"): value for name, value in headers.items()}, content


class Ca:
    """Answers requests by the last part of their paths, and otherwise as a CA does until a challenge."""

    def __init__(self, directory: Path) -> None:
        cert, key = directory / "ca.pem", directory / "ca.key"
        self_signed(cert, key)
        self.seen: list[str] = []
        self.offers = "tls-alpn-01"
        self.answers: dict[str, Callable[[], Answer] | Answer] = {}
        ca = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout: ClassVar[float] = PATIENCE

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, body = ca.answer(self.path.rpartition("/")[2])
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    try:
                        self.wfile.write(body)
                    except OSError:
                        self.close_connection = True

            do_HEAD = do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        self.settings = AcmeSettings("a@b.c", directory / "state", f"{self.url}/dir", cert)
        self.state = State(self.settings.directory)
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def answer(self, what: str) -> Answer:
        self.seen.append(what)
        found = self.answers.get(what)
        if callable(found):
            return found()
        if found is not None:
            return found
        url = self.url
        identifier = {"type": "dns", "value": NAME}
        challenge = {"type": self.offers, "url": f"{url}/challenge", "token": "t" * 43, "status": "pending"}
        order = {"status": "pending", "authorizations": [f"{url}/authz"], "finalize": f"{url}/finalize"}
        usual: dict[str, Answer] = {
            "dir": answer(
                {"newNonce": f"{url}/nonce", "newAccount": f"{url}/account", "newOrder": f"{url}/order", "meta": {}}
            ),
            "nonce": answer(b""),
            "account": answer({"status": "valid"}, 201, Location=f"{url}/account/1"),
            "order": answer(order, 201, Location=f"{url}/order/1"),
            "authz": answer({"status": "pending", "identifier": identifier, "challenges": [challenge]}),
            "challenge": answer(challenge, Link=f'<{url}/authz>;rel="up"'),
        }
        return usual.get(what, answer({"type": "about:blank", "detail": "no such thing"}, 404))


class Shown:
    """What is shown to the CA."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    def show(self, key_authorization: str) -> None:
        self.tokens.append(key_authorization.partition(".")[0])


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[Ca]:
    found = Ca(tmp_path)
    yield found
    found.close()


def fail(ca: Ca) -> OrderFailed:
    with pytest.raises(OrderFailed) as caught:
        obtain(ca.settings, ca.state, NAME, Shown())
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) <= 1000
    return caught.value


@pytest.mark.parametrize(
    ("what", "nonsense"),
    [
        ("dir", answer(b"<html>")),
        ("dir", answer([])),
        ("dir", answer({})),
        ("dir", answer("x")),
        ("dir", answer(b"[" * 100_000)),
        ("dir", answer({"newNonce": 3, "newAccount": [], "newOrder": {}})),
        ("dir", answer(b"", 500)),
        ("dir", (302, {"Location": "dir"}, b"")),
        ("dir", (302, {"Location": "http://127.0.0.1:1/"}, b"")),
        ("nonce", (200, {}, b"")),
        ("account", answer({}, 201)),
        ("account", answer({}, 201, Location="ftp://x/")),
        ("account", answer(b"\xff\xfe", 201)),
        ("account", answer({"status": "valid"}, 409)),
        ("order", answer({"status": "weird"}, 201)),
        ("order", answer({"status": "pending", "authorizations": "abc"}, 201)),
        ("order", answer({"status": "pending", "authorizations": [1, 2]}, 201)),
        ("order", answer({"status": "pending", "authorizations": ["file:///etc/passwd"]}, 201)),
        ("order", answer({"type": "x\ny\x1b[31m", "detail": "line\nline\x00" * 1000}, 400)),
        ("order", answer(b"null", 400)),
        ("order", answer(b"{}", 400)),
        ("authz", answer({"status": "pending"})),
        ("authz", answer({"status": "pending", "challenges": []})),
        ("authz", answer({"status": "pending", "challenges": [{"type": "dns-01", "url": "x", "token": "t" * 43}]})),
        ("authz", answer({"status": "pending", "challenges": [{"type": "tls-alpn-01", "token": "../../x"}]})),
        ("authz", answer({"status": "pending", "challenges": [{"type": "tls-alpn-01", "token": 3}]})),
        ("challenge", answer({})),
        ("challenge", answer({}, Link="garbage")),
    ],
)
def test_nonsense(what: str, nonsense: Answer, ca: Ca) -> None:
    ca.answers[what] = nonsense
    assert fail(ca).is_reached
    assert len(ca.seen) < 40


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "file:///etc/passwd"])
def test_only_https_is_asked(url: str, ca: Ca) -> None:
    ca.answers["order"] = answer({"status": "pending", "authorizations": [url], "finalize": "x"}, 201)
    assert str(fail(ca)) == f"it names '{url}', which is not https"


def test_a_certificate_that_was_not_ordered(ca: Ca) -> None:
    ca.answers["authz"] = answer({"status": "valid", "identifier": {"type": "dns", "value": NAME}})
    order = answer({"status": "valid", "certificate": f"{ca.url}/cert"})
    ca.answers |= {"finalize": order, "1": order}
    status, headers, _ = answer(b"")
    headers["Content-Type"] = "application/pem-certificate-chain"
    assert ca.settings.ca is not None
    ca.answers["cert"] = (status, headers, ca.settings.ca.read_bytes())
    assert str(fail(ca)) == "it answers what cannot be understood: a certificate that was not ordered"


def test_an_answer_without_end(ca: Ca) -> None:
    ca.answers["dir"] = answer(b" " * (authority.MOST + 100_000))
    assert "its answer is too long" in str(fail(ca))


@pytest.mark.parametrize(("header", "seconds"), [("3600", 3600), ("9" * 400, 999_999_999), ("-5", 0), ("soon", 0)])
def test_a_rate_limit(header: str, seconds: float, ca: Ca) -> None:
    problem = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates"}
    ca.answers["order"] = answer(problem, 429, Retry_After=header)
    failed = fail(ca)
    assert str(failed) == "rateLimited: too many certificates"
    assert failed.asked == min(seconds, LONGEST_ASKED)


def test_a_rate_limit_with_a_date(ca: Ca) -> None:
    ca.answers["order"] = answer({"type": "x"}, 503, Retry_After="Fri, 31 Dec 2100 23:59:59 GMT")
    assert fail(ca).asked == LONGEST_ASKED


def test_a_nonce_that_is_never_right(ca: Ca) -> None:
    ca.answers["account"] = answer({"type": "urn:ietf:params:acme:error:badNonce", "detail": "bad"}, 400)
    assert str(fail(ca)) == "badNonce: bad"
    assert ca.seen.count("account") == authority.NONCES + 1


def test_an_account_is_kept_and_used_again(ca: Ca) -> None:
    ca.answers["order"] = answer({"type": "x"}, 500)
    fail(ca)
    fail(ca)
    assert ca.seen.count("account") == 1
    assert json.loads(ca.state.account.read_bytes())["uri"] == f"{ca.url}/account/1"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"key": {"kty": "EC"}, "uri": "x"}', b"[" * 100_000])
def test_a_corrupt_account_is_put_aside(content: bytes, ca: Ca) -> None:
    ca.state.write(ca.state.account, content)
    ca.answers["order"] = answer({"type": "x"}, 500)
    fail(ca)
    assert ca.state.account.with_name("account.json.bad").read_bytes() == content
    assert json.loads(ca.state.account.read_bytes())["uri"] == f"{ca.url}/account/1"


def test_a_challenge_that_fails(ca: Ca, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown()
    why = {"type": "urn:ietf:params:acme:error:connection", "detail": "no route"}
    challenge = {"type": "tls-alpn-01", "url": f"{ca.url}/challenge", "token": "t" * 43, "status": "invalid"}
    identifier = {"type": "dns", "value": NAME}
    failed = answer({"status": "invalid", "identifier": identifier, "challenges": [challenge | {"error": why}]})

    def look() -> Answer:
        answers: dict[str, Any] = ca.answers
        answers["authz"] = failed
        return answer(
            {"status": "pending", "identifier": identifier, "challenges": [challenge | {"status": "pending"}]}
        )

    ca.answers["authz"] = look
    with pytest.raises(OrderFailed, match="the name was not confirmed: connection: no route"):
        obtain(ca.settings, ca.state, NAME, shown)
    assert shown.tokens == ["t" * 43]


@pytest.mark.parametrize(("wanted", "offered"), [CHALLENGES, CHALLENGES[::-1]])
def test_a_ca_that_offers_the_other_challenge_only(wanted: str, offered: str, ca: Ca) -> None:
    ca.offers = offered
    ca.settings = replace(ca.settings, challenge=wanted)
    failed = fail(ca)
    assert (str(failed), failed.is_reached) == (f"it does not offer {wanted}; give --acme-challenge {offered}", True)


def test_a_ca_that_offers_neither(ca: Ca) -> None:
    ca.offers = "dns-01"
    assert str(fail(ca)) == "it does not offer tls-alpn-01"


@pytest.mark.parametrize("token", ["t" * 43, "-" * 16, "A" * 17, "_Az9" * 64])
def test_a_token_is_text(token: str, ca: Ca) -> None:
    """It looks like base64, and need not be any."""
    shown = Shown()
    challenge = {"type": HTTP_01, "url": f"{ca.url}/challenge", "token": token, "status": "pending"}
    identifier = {"type": "dns", "value": NAME}
    ca.answers["authz"] = answer({"status": "pending", "identifier": identifier, "challenges": [challenge]})
    ca.answers["challenge"] = answer({"type": "about:blank", "detail": "enough"}, 400)
    with pytest.raises(OrderFailed, match="enough"):
        obtain(replace(ca.settings, challenge=HTTP_01), ca.state, NAME, shown)
    assert shown.tokens == [token]


def test_a_ca_that_is_not_there(tmp_path: Path) -> None:
    settings = AcmeSettings("a@b.c", tmp_path, f"https://127.0.0.1:{free_port()}/dir")
    with pytest.raises(OrderFailed, match=r"^it cannot be reached: .*[Cc]onnection refused") as caught:
        obtain(settings, State(settings.directory), NAME, Shown())
    assert not caught.value.is_reached


def test_a_ca_that_nobody_vouches_for(ca: Ca) -> None:
    settings = AcmeSettings("a@b.c", ca.settings.state_dir, ca.settings.server)
    with pytest.raises(OrderFailed, match=r"its own certificate is not trusted .*--acme-ca names the CA") as caught:
        obtain(settings, ca.state, NAME, Shown())
    assert not caught.value.is_reached
