"""An S3 server in a process of its own (moto's), on loopback, that can be made to fail, to be slow and to cut."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

KEYS = {
    "AWS_ACCESS_KEY_ID": "key-of-the-tests",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",  # what is retried is retried by synthray
}


class ObjectStore:
    """The server and a bucket; `fault` says how it behaves from now on.

    fail: share of the requests answered by 503; slow: seconds that each takes; cut: share of the answers to
    GET of which half is sent; deny: methods that are refused; full: whether nothing can be put.
    """

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.url = f"http://127.0.0.1:{self.port}"
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                self.fault()
                break
            except OSError:
                time.sleep(0.05)
        self._ask("PUT", "/bucket")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def fault(self, **faults: Any) -> None:
        """Behave so from now on; without faults as it should."""
        self._ask("POST", "/_faults", json.dumps(faults))

    def counts(self) -> dict[str, int]:
        """Return how many requests there were since the last fault(), by method; 'hit' met a fault."""
        held: dict[str, int] = json.loads(self._ask("GET", "/_faults"))
        return held

    def _ask(self, method: str, path: str, body: str = "") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body)
            return connection.getresponse().read()
        finally:
            connection.close()


class Faulty:
    """A WSGI application that stands before another one."""

    def __init__(self, inner: Callable[..., Iterable[bytes]]) -> None:
        self._inner = inner
        self._faults: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()
        self._chance = random.Random(7)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == "/_faults":
            return self._control(method, environ, start)
        with self._lock:
            self._counts[method] += 1
            fails = self._chance.random() < self._faults.get("fail", 0)
            cuts = method == "GET" and self._chance.random() < self._faults.get("cut", 0)
            refused = method in self._faults.get("deny", ())
            full = method == "PUT" and self._faults.get("full", False)
            self._counts["hit"] += fails or cuts or refused or full
        time.sleep(self._faults.get("slow", 0))
        if fails or refused or full:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, code = (
                ("403 Forbidden", "AccessDenied")
                if refused
                else ("507 Insufficient Storage", "InsufficientStorage")
                if full
                else ("503 Slow Down", "SlowDown")
            )
            body = f"<Error><Code>{code}</Code><Message>{code} by the test</Message></Error>".encode()
            start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        answer = self._inner(environ, start)
        return _half(answer) if cuts else answer

    def _control(self, method: str, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        with self._lock:
            body = json.dumps(self._counts).encode()
            if method == "POST":
                size = int(environ.get("CONTENT_LENGTH") or 0)
                self._faults = json.loads(environ["wsgi.input"].read(size) or b"{}")
                self._counts.clear()
                self._chance = random.Random(7)
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def _half(answer: Iterable[bytes]) -> Iterator[bytes]:
    whole = b"".join(answer)
    yield whole[: len(whole) // 2]


def _serve(port: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, run_simple

    os.environ.setdefault("MOTO_PORT", str(port))
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    application = Faulty(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", port, application, threaded=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
