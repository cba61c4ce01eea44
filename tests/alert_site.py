"""The other end of the alert webhook: a real HTTP server that keeps what it is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from receiver.alert_settings import AlertSettings
from receiver.signers.standard_webhooks import new_secret
from tests.waiting import until


@dataclass(frozen=True)
class Notice:
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> dict[str, Any]:
        return json.loads(self.body)  # type: ignore[no-any-return]  # an object

    @property
    def text(self) -> str:
        return str(self.value["text"])


@dataclass
class AlertSite:
    """`status`: what it answers."""

    port: int = 0
    status: int = 200
    secret: str = field(default_factory=new_secret)
    notices: list[Notice] = field(default_factory=list)
    refused: list[Notice] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=cAnArY"

    def settings(self, **more: Any) -> AlertSettings:
        return AlertSettings.model_validate(
            {"url": self.url, "secret": self.secret, "allow_private": True, "repeat_after": "24h", **more}
        )

    @property
    def texts(self) -> list[str]:
        return [notice.text for notice in self.notices]

    async def told(self, count: int) -> list[Notice]:
        async def enough() -> bool:
            return len(self.notices) >= count

        await until(enough)
        return self.notices

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            _, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            notice = Notice(headers, await reader.readexactly(int(headers["content-length"])))
            (self.notices if self.status < 300 else self.refused).append(notice)
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % self.status)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the service was stopped in between
        finally:
            writer.close()


@asynccontextmanager
async def alert_site() -> AsyncIterator[AlertSite]:
    """Listens on a port of this machine while the block runs."""
    made = AlertSite()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
