"""A proxy that does to requests and answers what networks and busy servers do."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from s3_servers import own_to

__all__ = [
    "DRIPS",
    "FAULTS",
    "TLS_FAULTS",
    "Proxy",
    "Request",
    "at",
    "faulty",
    "no_waiting",
    "once",
    "speaking",
]

HANGS = 30.0  # seconds, longer than any client of the tests waits
RECORD = b"\x17\x03\x03\x10\x00"  # begins a TLS record of 4 KiB
DRIPS = {"drip": 0.002, "slow drip": 0.25}  # seconds between the tenths of a body

# What a server answers, by the name of a fault: status, code, sentence.
ANSWERS = {
    "500": (500, "InternalError", "We encountered an internal error, please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "400": (400, "RequestTimeout", "Your socket connection was not read from in time."),
}
# "old" is no fault of a network: a listing as it was when it was asked for without a fault.
# What a client can live with, if it doesn't happen each time.
FAULTS = (
    *ANSWERS,
    "500 after",  # the server has done it, and says that it has failed
    "reset",  # before the request reaches the server
    "reset in request",  # when the client has sent a part of it
    "reset after",  # when the server has done it
    "reset in body",
    "cut",  # the body ends too early
    "drip",
    "hang",  # no answer
    "hang after",  # the server has done it
    "hang in body",
)
# Over https, too.
TLS_FAULTS = (
    "cut in record",  # the connection ends within a record of TLS
    "bad record",  # a record was altered on its way
    "no handshake",  # a reset, and the next connection ends while TLS begins
)


class Request(NamedTuple):
    """What a client asks for.

    Attributes:
        path: with the query.
        number: counted from 0.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    number: int


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        url: where it listens.
        fault: given a request, the name of what happens to it, or "" for nothing; or status, code,
            sentence, headers and, if need be, more of the XML that is answered in the server's
            place.
        seen: what was asked for.
        forwarding: how many requests the server is at.
    """

    url: str
    fault: Callable[[Request], Any] = lambda _: ""
    seen: list[Request] = field(default_factory=list)
    forwarding: int = 0

    def settle(self) -> None:
        """Wait until the server has answered all requests, also those that a client gave up."""
        while self.forwarding:
            time.sleep(0.001)


def speaking(verify: Path | None) -> ssl.SSLContext | None:
    """Return what has a server speak TLS to clients that trust the authority `verify`."""
    if verify is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own_to(verify))
    return context


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, verify: Path | None) -> None:
        self.scheme, _, self.upstream = upstream.partition("://")
        self.trust = ssl.create_default_context(cafile=verify) if verify else None
        self.context = speaking(verify)
        self.ending = threading.Event()
        self.lock = threading.Lock()
        self.no_handshakes = 0
        self.answers: dict[str, list[tuple[HTTPResponse, bytes]]] = {}  # to listings, by path
        super().__init__(("127.0.0.1", 0), _Handler)
        scheme = "https" if self.context else "http"
        self.proxy = Proxy(f"{scheme}://127.0.0.1:{self.server_address[1]}")

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection; begin TLS in its own thread, or don't."""
        if not self.context:
            super().finish_request(request, client_address)
            return
        with self.lock:
            refused = self.no_handshakes > 0
            self.no_handshakes -= refused
        request.settimeout(HANGS)
        if refused:
            request.recv(1 << 16)
            request.sendall(b"\x16\x03\x03\x10\x00")  # begins a handshake of 4 KiB
            return
        with self.context.wrap_socket(request, server_side=True) as secure:
            secure.settimeout(None)
            super().finish_request(secure, client_address)

    def to_server(self) -> HTTPConnection:
        """Return a new connection to the server."""
        if self.scheme == "https":
            return HTTPSConnection(self.upstream, timeout=60, context=self.trust)
        return HTTPConnection(self.upstream, timeout=60)

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients that go away are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, and one to the server."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server_side = self.server.to_server()

    def finish(self) -> None:
        self.server_side.close()
        with suppress(OSError):
            super().finish()

    def handle_one_request(self) -> None:
        with suppress(ConnectionError, TimeoutError, ssl.SSLError):
            super().handle_one_request()
            return
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass

    def do(self) -> None:
        proxy, headers = self.server.proxy, dict(self.headers.items())
        with self.server.lock:
            request = Request(self.command, self.path, headers, len(proxy.seen))
            proxy.seen.append(request)
        fault = proxy.fault(request)
        if fault == "reset in request":
            if self.has_chunks() or int(self.headers.get("Content-Length", 0)):
                self.rfile.read1(1)
            self.reset()
            return
        body = self.received()
        if isinstance(fault, str) and fault in ANSWERS:
            fault = (*ANSWERS[fault], {})
        if isinstance(fault, tuple):
            self.answer_error(*fault)
        elif fault in {"reset", "no handshake"}:
            with self.server.lock:
                self.server.no_handshakes += fault == "no handshake"
            self.reset()
        elif fault == "hang":
            self.hang()
        else:
            if fault == "corrupt request" and body:
                at = len(body) // 2
                body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            self.count(1)
            try:
                self.forward(body, fault)
            finally:
                self.count(-1)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_CONNECT = do

    def has_chunks(self) -> bool:
        """Tell whether the body comes in chunks, as over https: its checksum follows it."""
        return self.headers.get("Transfer-Encoding") == "chunked"

    def received(self) -> bytes:
        """Return the body, whose chunks are joined."""
        if not self.has_chunks():
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def count(self, number: int) -> None:
        with self.server.lock:
            self.server.proxy.forwarding += number

    def forward(self, body: bytes, fault: str) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        if self.is_alone():
            return
        with suppress(ConnectionError):
            chunked = self.has_chunks()
            sent = iter([body]) if chunked else body
            self.server_side.request(self.command, self.path, sent, headers, encode_chunked=chunked)
            answer = self.server_side.getresponse()
            data = answer.read()
            if "list-type=" in self.path:
                earlier = self.server.answers.setdefault(self.path, [])
                if fault == "old" and earlier:
                    answer, data = earlier[-1]
                else:
                    earlier.append((answer, data))
            match fault:
                case "500 after":
                    self.answer_error(*ANSWERS["500"], {})
                case "reset after":
                    self.reset()
                case "hang after":
                    self.hang()
                case _:
                    self.answer(answer, data, fault)
            return
        self.reset()

    def answer(self, answer: HTTPResponse, data: bytes, fault: str) -> None:
        if fault in {"cut in record", "bad record"} and not data:
            self.break_record(fault)
            return
        if fault == "corrupt" and data and self.command == "GET":
            at = len(data) // 2
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        half = data[: len(data) // 2]
        match fault:
            case "reset in body":
                self.wfile.write(half)
                self.reset()
            case "cut":
                self.wfile.write(half)
                self.close_connection = True
            case "hang in body":
                self.wfile.write(half)
                self.hang()
            case "cut in record" | "bad record":
                self.wfile.write(half)
                self.break_record(fault)
            case "drip" | "slow drip":
                for start in range(0, len(data), max(1, len(data) // 10)):
                    self.wfile.write(data[start : start + max(1, len(data) // 10)])
                    time.sleep(DRIPS[fault])
            case _:
                self.wfile.write(data)

    def answer_error(
        self, status: int, code: str, sentence: str, headers: Mapping[str, str], more: str = ""
    ) -> None:
        text = f"<Error><Code>{code}</Code><Message>{sentence}</Message>{more}</Error>"
        data = b"" if self.command == "HEAD" else text.encode()
        self.send_response_only(status)
        own = {"Content-Type": "application/xml", "Content-Length": str(len(data))}
        for name, value in {**own, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def is_alone(self) -> bool:
        """Tell whether the client has gone: what it gave up must not arrive later."""
        below = os.dup(self.connection.fileno())  # TLS can't look ahead
        with suppress(BlockingIOError), socket.socket(fileno=below) as raw:
            return not raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False

    def reset(self) -> None:
        """End the connection in such a way that the client gets an error, and not an end."""
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()

    def break_record(self, fault: str) -> None:
        """Send what TLS can't have sent, and end the connection."""
        self.close_connection = True
        sent = RECORD + bytes(100 if fault == "cut in record" else 4096)
        os.write(self.connection.fileno(), sent)

    def hang(self) -> None:
        """Say nothing until the client has gone."""
        self.close_connection = True
        end = time.monotonic() + HANGS
        self.connection.settimeout(0.2)
        while not self.server.ending.is_set() and time.monotonic() < end:
            with suppress(TimeoutError):
                if not self.connection.recv(1 << 16):
                    return


def once(fault: Any, wanted: Callable[[Request], bool] = lambda _: True, times: int = 1) -> Any:
    """Return what has the first requests that are wanted meet a fault, and the next none."""
    left = [times]

    def decide(request: Request) -> str:
        if wanted(request) and left[0]:
            left[0] -= 1
            return fault
        return ""

    return decide


def at(place: int, fault: str, proxy: Proxy) -> Callable[[Request], str]:
    """Return what has one of the next requests meet a fault."""
    number = len(proxy.seen) + place
    return lambda request: fault if request.number == number else ""


def no_waiting(patch: pytest.MonkeyPatch) -> None:
    """Have boto3 not wait before it tries again, up to a second the first time, but do try.

    A client that had to try again too often does it less: what follows has clients of its own.
    """
    patch.setattr("functionfuse_s3.clients._clients", {})
    patch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))


@contextmanager
def faulty(upstream: str, verify: Path | None = None) -> Iterator[Proxy]:
    """Run a proxy in threads of this process, in front of a server; over https with `verify`."""
    server = _Server(upstream, verify)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.proxy
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
