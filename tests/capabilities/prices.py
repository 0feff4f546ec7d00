"""The outside of a price feed: sources of prices on loopback, and where its reports are sent."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Sources:
    """A server of prices on loopback, which keeps what is sent to it."""

    url: str
    prices: dict[str, Any] = field(default_factory=lambda: {"/a": 97.5, "/b": 96.5, "/c": 99.0})
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    sent: list[dict[str, Any]] = field(default_factory=list)

    def config(self, **more: Any) -> dict[str, Any]:
        sources = [f"{self.url}{path}" for path in self.prices]
        return {"schedule": "*/30 * * * * *", "sources": sources} | more


@contextmanager
def serving() -> Iterator[Sources]:
    """Answer inside the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked.append(self.path)
            known.tokens.add(self.headers["Authorization"])
            self._answer(json.dumps({"price": known.prices[self.path]}).encode())

        def do_POST(self) -> None:
            known.sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"{}")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known = Sources(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield known
    server.shutdown()
    thread.join()
    server.server_close()
