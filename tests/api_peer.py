"""A small HTTP server of our own that answers as it is told: with a status, slowly, with rubbish, or not at all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

RESET = "reset"
SILENT = "silent"
RUBBISH = "rubbish"


@dataclass(frozen=True)
class Said:
    """One answer."""

    status: int = 200
    body: str = "{}"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float


@dataclass
class ApiPeer:
    """`script`: the next answers, the last of which stays."""

    script: deque[Said | str] = field(default_factory=lambda: deque([Said()]))
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def says(self, *answers: Said | str) -> None:
        """From now on."""
        self.script = deque(answers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.asked.append(Asked(method, path, headers, body, asyncio.get_running_loop().time()))
        said = self.script.popleft() if len(self.script) > 1 else self.script[0]
        if said == SILENT:
            await reader.read()
        if said == RESET:
            writer.transport.abort()
        if said == RUBBISH:
            writer.write(b"\x00\x01 rubbish\r\n\r\n")
        if isinstance(said, str):
            return False
        fields = {"content-type": "application/json", "content-length": str(len(said.body.encode())), **said.headers}
        lines = [f"HTTP/1.1 {said.status} X", *(f"{name}: {value}" for name, value in fields.items())]
        writer.write("\r\n".join((*lines, "", said.body)).encode())
        await writer.drain()
        return True


@asynccontextmanager
async def api_peer() -> AsyncIterator[ApiPeer]:
    """The server on a free port."""
    peer = ApiPeer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
