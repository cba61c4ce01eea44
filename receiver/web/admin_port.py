"""The port of the admin listener: the first free one of several, and the way back to an earlier one."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import structlog

from receiver.web.listen import PortTaken, Server, address, bind, server

log = structlog.get_logger("service")

PORTS: Final = 16  # tried: so many processes on one host find theirs by themselves
EVERY: Final = 0.2  # seconds between looks whether an earlier port is free; so long nobody may answer there


def ports_from(port: int, step: int = 1) -> Sequence[int]:
    """`port` and those to be had instead, the best first; 0, for any port, stays alone.

    `step`: how many processes of one service have a port each, so that they never want each other's.
    """
    return range(port, min(port + PORTS * step, 65536), step) if port else (0,)


class AdminListener:
    """A listening socket on the first of `ports` that is free, and what serves on it."""

    def __init__(self, host: str, ports: Sequence[int]) -> None:
        """Raises PortTaken for the wanted one, which is the first."""
        self._host = host
        self._socket, number = _first_free(host, ports)
        self._earlier = ports[:number]
        if number:
            log.info("the admin port is taken", action="admin_port_taken", wanted=ports[0], instead=ports[number])
        self._application: Any = None
        self._serving: list[tuple[Server, asyncio.Task[None]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def url(self) -> str:
        return address(self._socket)

    async def start(self, application: Any) -> None:
        """Serve; requests are answered from here on."""
        self._application = application
        one = server(application)
        task = asyncio.create_task(one.serve(sockets=[self._socket]))
        self._serving.append((one, task))
        while not one.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.005)

    async def run(self, moved: Callable[[], None] | None = None) -> None:
        """Until the server ends, by `stop` or by a fault, which is raised. Cancelled, it leaves the server alone.

        With `moved` it serves on an earlier port instead as soon as that is free, and tells so. Thus the first ports
        are those in use, whichever process has ended, and others know where to ask.
        """
        while not (task := self._serving[-1][1]).done():
            await asyncio.wait([task], timeout=EVERY if moved and self._earlier else None)
            if moved and self._earlier and not task.done():
                await self._move(moved)
        task.result()

    async def stop(self) -> None:
        """Finish open requests, and end."""
        for one in list(self._serving):
            await self._end(*one)

    async def _move(self, moved: Callable[[], None]) -> None:
        try:
            found, number = _first_free(self._host, self._earlier)
        except PortTaken:
            return
        before, self._socket, self._earlier = self.url, found, self._earlier[:number]
        await self.start(self._application)
        log.info("an earlier admin port has become free", action="admin_port_moved", left=before, now=self.url)
        moved()
        await self._end(*self._serving[0])
        self._serving.pop(0)

    @staticmethod
    async def _end(one: Server, task: asyncio.Task[None]) -> None:
        one.should_exit = True
        await asyncio.wait([task])


def _first_free(host: str, ports: Sequence[int]) -> tuple[socket.socket, int]:
    """A listening socket, and which one of `ports` it has. Raises PortTaken for the first."""
    taken: PortTaken | None = None
    for number, candidate in enumerate(ports):
        try:
            listener = bind(host, candidate, "administration")
        except PortTaken as error:
            taken = taken or error
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                break
        else:
            return listener, number
    assert taken is not None  # at least one was tried
    raise taken
