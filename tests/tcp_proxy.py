"""A TCP proxy between the service and its database, which a test can slow down or cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class Proxy:
    """Forwards connections of a TCP port to a Unix socket.

    `passing` cleared: bytes wait. `cut()` closes all. `delay`: seconds each way. `swallow()`: what is said on the
    connections of now is lost, and neither side learns of it. `cut_at`: words that a client says one after the other;
    at the last all is cut and nobody let in, after it has been passed on (`cut_passes`) or before.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._links: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._left: set[asyncio.StreamWriter] = set()  # open although the other side was cut
        self._dead: set[asyncio.StreamWriter] = set()
        self.refusing = False
        self.delay = 0.0
        self.cut_at: Sequence[bytes] = ()
        self.cut_passes = True
        self.passing = asyncio.Event()
        self.passing.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(str(self._target))
        except OSError:  # the server is down
            writer.close()
            return
        if self.refusing:  # asked last: all may have been cut just now
            writer.close()
            up_writer.close()
            return
        self._links |= {writer, up_writer}
        for source, sink, client in ((reader, up_writer, True), (up_reader, writer, False)):
            task = asyncio.create_task(self._copy(source, sink, client=client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, client: bool) -> None:
        said = 0
        try:
            while chunk := await source.read(65536):
                await self.passing.wait()
                await asyncio.sleep(self.delay)
                if sink in self._dead:
                    continue
                if client and self.cut_at:
                    while said < len(self.cut_at) and self.cut_at[said] in chunk:
                        said += 1
                    if said == len(self.cut_at):
                        await self._cut_at_word(sink, chunk)
                        return
                sink.write(chunk)
                await sink.drain()
        except OSError:
            pass  # one side was cut; the other is closed below
        finally:
            if sink not in self._left:
                sink.close()

    async def _cut_at_word(self, sink: asyncio.StreamWriter, chunk: bytes) -> None:
        self.cut_at, self.refusing = (), True
        if self.cut_passes:
            # The server is to do all that it was told: it would give up when it finds nobody to answer to.
            self._links.discard(sink)
            self._left.add(sink)
            sink.write(chunk)
            await sink.drain()
        self.cut()

    def swallow(self) -> None:
        self._dead |= self._links
        self._left |= self._links
        self._links.clear()

    def cut(self) -> None:
        for link in self._links:
            link.transport.abort()
        self._links.clear()

    async def close(self) -> None:
        self.cut()
        for link in self._left:
            link.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[tuple[Proxy, str]]:
    """(proxy, DSN through it) for a DSN of a Unix socket."""
    parts = urlsplit(dsn)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    proxy = Proxy(Path(query["host"]) / f".s.PGSQL.{query.get('port', '5432')}")
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = parts.username or "receiver"
    try:
        yield proxy, f"postgresql://{user}@127.0.0.1:{port}{parts.path}?sslmode=disable"
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
