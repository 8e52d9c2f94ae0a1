"""Both ends of gRPC under TLS, as programs of their own: ``serve CERT KEY`` and ``visit PORT NAME CA``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

CALL, STREAM = "/test.Echo/Call", "/test.Echo/Stream"
LARGE = bytes(range(256)) * 8192
MESSAGES = 200


class _Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: Any) -> Any:
        if details.method == CALL:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)
        return grpc.stream_stream_rpc_method_handler(lambda requests, _: iter(requests))


def serve(certificate: str, key: str) -> None:
    """Echo, message by message."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((_Echo(),))
    pair = Path(key).read_bytes(), Path(certificate).read_bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    print(f"serving at 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


def visit(port: str, name: str, ca: str) -> None:
    """Call, send a large message, and hold a conversation in which each message waits for the answer to the last."""
    options = [("grpc.ssl_target_name_override", name), ("grpc.max_receive_message_length", -1)]
    credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        call, stream = channel.unary_unary(CALL), channel.stream_stream(STREAM)
        assert call(b"hello", timeout=60) == b"hello"
        assert call(LARGE, timeout=60) == LARGE
        answers: list[bytes] = []

        def messages() -> Iterator[bytes]:
            for number in range(MESSAGES):
                yield b"message %d" % number

        answers += stream(messages(), timeout=60)
        assert answers == list(messages())
        print(f"{len(answers)} answers", flush=True)


ENDS: dict[str, Callable[..., None]] = {"serve": serve, "visit": visit}

if __name__ == "__main__":
    ENDS[sys.argv[1]](*sys.argv[2:])
