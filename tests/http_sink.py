"""A web server in a process of its own that keeps what is posted to it, and answers as a file tells it.

`python -m tests.http_sink DIRECTORY` writes its port to DIRECTORY/port, each request as a line of JSON to
DIRECTORY/requests, and answers with what DIRECTORY/answer holds: `{"status": 503, "headers": {...}, "poison": ""}`.
With `poison`, bodies without that text are answered with 200.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.waiting import until


def serve(directory: Path) -> None:
    """Until it is killed."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            answer = json.loads((directory / "answer").read_text())
            refused = answer["status"] != 200 and answer["poison"] in body
            with (directory / "requests").open("a") as file:
                headers = {name.lower(): value for name, value in self.headers.items()}
                line = {"path": self.path, "headers": headers, "body": body, "refused": refused}
                file.write(json.dumps(line) + "\n")
            self.send_response(answer["status"] if refused else 200)
            for name, value in answer.get("headers", {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.get("text", "").encode() if refused else b"")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    (directory / "port.new").write_text(str(server.server_port))
    (directory / "port.new").rename(directory / "port")
    server.serve_forever()


class Sink:
    """The server as a test sees it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.answer(200)

    def answer(self, status: int, text: str = "", *, poison: str = "", **headers: str) -> None:
        """From now on."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        new = self.directory / "answer.new"
        new.write_text(json.dumps({"status": status, "headers": named, "text": text, "poison": poison}))
        new.rename(self.directory / "answer")

    @property
    def ready(self) -> bool:
        return (self.directory / "port").exists()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{(self.directory / 'port').read_text()}/events"

    @property
    def requests(self) -> list[Mapping[str, Any]]:
        """All that was posted."""
        path = self.directory / "requests"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be in the writing

    def taken(self) -> list[str]:
        """The ids of the events in requests that were answered with success, one for each copy."""
        return [one["id"] for request in self.requests if not request["refused"] for one in json.loads(request["body"])]


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Sink]:
    """The server for the block."""
    sink = Sink(directory)
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.http_sink", str(directory))

    async def ready() -> bool:
        return sink.ready

    try:
        await until(ready)
        yield sink
    finally:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
