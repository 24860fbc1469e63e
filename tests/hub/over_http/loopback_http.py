"""HTTP for the loopback Hub: requests come in, answers go out, connections break where a test wants them to."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback_repository import HubError


@dataclass(frozen=True)
class Request:
    """A request as the Hub's routes see it; HEAD counts as GET."""

    method: str
    path: str
    query: dict[str, list[str]]
    token: str | None
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True)
class Answer:
    """JSON-able content, or the bytes of a file."""

    content: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Interruption:
    """Trouble for requests of this method to these paths; see `Hub.interrupt`."""

    method: str
    path: re.Pattern
    action: Callable[[], None] | None
    done: bool = False

    def concerns(self, method: str, path: str) -> bool:
        return not self.done and method == self.method and bool(self.path.search(path))


class Handler(BaseHTTPRequestHandler):
    hub: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Requests are kept in `hub.requests`, not printed."""

    def handle_request(self) -> None:
        address = urlsplit(self.path)
        self.hub.requests.append((self.command, address.path))
        if self._is_interrupted(address.path):
            self.close_connection = True
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        method = "GET" if self.command == "HEAD" else self.command
        try:
            answer = self.hub.answer(
                Request(method, unquote(address.path), parse_qs(address.query), token, self._read_body())
            )
        except HubError as error:
            if error.code == "UnknownRoute":
                print(f"loopback Hub: {error.message}", file=sys.stderr)
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            answer = Answer(b"", error.status, {name: value for name, value in headers.items() if value})
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def _is_interrupted(self, path: str) -> bool:
        """Whether to drop the connection; an interruption with an action acts and lets the request pass."""
        for trouble in self.hub.interruptions:
            if trouble.concerns(self.command, path):
                if trouble.action is None:
                    return True
                trouble.done = True
                trouble.action()
        return False

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, answer: Answer) -> None:
        data, status, headers = answer.content, answer.status, dict(answer.headers)
        if not isinstance(data, bytes):
            data = json.dumps(data).encode()
            headers["Content-Type"] = "application/json"
        elif part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(part[1]), min(int(part[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            status, data = 206, data[first : last + 1]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
