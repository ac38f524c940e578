"""A server for what no honest endpoint sends: answers as told, and every request as it came."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Sent:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    port: int


@dataclass
class Odd:
    """A server in this process for what no honest endpoint sends: answers (status, body, headers) as told."""

    url: str = ""
    answers: list[Any] = field(default_factory=list)
    requests: list[Sent] = field(default_factory=list)


@contextmanager
def serving(otherwise: Any) -> Iterator[Odd]:
    """Listen on loopback; with no answer told, `otherwise` is answered."""
    held = Odd()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            sent = json.loads(body) if body else None
            held.requests.append(Sent(self.command, self.path, headers, sent, self.client_address[1]))
            answer = held.answers.pop(0) if held.answers else (200, otherwise)
            status, said, more = (*answer, {})[:3]
            raw = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(raw)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        do_CONNECT = do_POST

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    held.url = f"http://127.0.0.1:{listening.server_port}/v1"
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield held
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
