"""HTTP/1.1 for the public listener: what stands between a stranger's socket and the webhooks.

Written for this place instead of an ASGI server, for two reasons. It bounds what a stranger may cost: the bytes and the
time of a request's head, the time of its body, the bytes of all requests in flight, the number of connections. And it
costs less for a small request, of which the server was a large part.

httptools parses. A connection handles one request after the other; a request's body is given to the site whole.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from math import inf
from typing import Any, Final, cast

import httptools
import structlog

from receiver.contract import Answer
from receiver.web.budget import Budget
from receiver.web.request import GaveUp, Request, Site

log = structlog.get_logger("http")

HEAD_BYTES: Final = 32 * 1024  # names and values of a request's head, and its URL
HEAD_TIME: Final = 10.0  # seconds from a head's first byte to its last
IDLE_TIME: Final = 75.0  # seconds a connection may wait for its next request
LINGER_TIME: Final = 2.0  # seconds to let a client read a final answer while it still sends
LAST_CALL: Final = 1.0  # seconds that open connections get for one more request when we stop
MAX_CONNECTIONS: Final = 4000  # a process may open so many files only if its limit allows: see `listen.allow_files`
MAX_PIPELINED: Final = 64
SWALLOWED: Final = 64 * 1024  # bytes of an unwanted body that are read, so that the connection can go on
SWEEP: Final = 0.25  # seconds between looks for what has taken too long

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# What follows the head of a request that asked for another protocol, which we ignore as HTTP allows.
_BODY_ONLY: Final = b"POST / HTTP/1.1\r\n%s\r\n\r\n"


class Listener:
    """The connections of one site: their limits in common, and their end."""

    def __init__(self, site: Site, budget: Budget) -> None:
        self.site = site
        self.budget = budget
        self.stopping = False
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self, listener: Any) -> None:
        """Accept connections on a listening socket."""
        self._server = await self._loop.create_server(lambda: Connection(self), sock=listener)
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self, *, within: float) -> None:
        """Accept nothing new, answer what is in hand, and cut what is still open after `within` seconds."""
        if self._server is None or self._sweeping is None:  # it was never started
            return
        self._server.close()
        self.stopping = True
        for connection in list(self._connections):
            connection.last_call()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), within)
        for connection in list(self._connections):
            connection.abort()
        self._sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeping

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def opened(self, connection: Connection) -> bool:
        """Whether there is room for one more; the one that has been idle longest makes room."""
        if len(self._connections) >= MAX_CONNECTIONS:
            idle = [(other.idle_since, id(other), other) for other in self._connections if other.idle_since is not None]
            if not idle:
                return False
            min(idle)[2].abort()
        self._connections.add(connection)
        self._empty.clear()
        return True

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            now = self._loop.time()
            for connection in [one for one in self._connections if one.deadline < now]:
                connection.expire()


class Connection(asyncio.Protocol):
    """One connection: parses requests, hands them to the site one after the other, writes the answers in order.

    `deadline`: when what it does now has taken too long, by the loop's clock. `idle_since`: when its last request was
    answered; None while one is arriving or in hand.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._client: str | None = None
        self._reading: Request | None = None  # its head or body is arriving
        self._head: dict[str, str] | None = None  # takes headers, while a head arrives: those behind a body say nothing
        self._line: deque[tuple[Request | None, Answer | None]] = deque()  # whole, or answered already; in order
        self._working: Request | None = None  # the site has it
        self._fresh = False  # a head or a body has begun to arrive, or the end has begun, since the deadline was set
        self._read = 0  # bytes of the read in hand
        self._first = 0  # bytes of the read in which the head began
        self._fed = 0  # bytes of the reads since then, or since the body last grew: what has no end counts too
        self._repeated = 0  # bytes of names that were there before
        self._replaced = False  # the parser's head is one of ours
        self._deaf = False  # nothing more is read: the last words are said, or stand in the line
        self._paused = False
        self._clogged = False  # the client does not read its answers
        self.idle_since: float | None = self._loop.time()
        self.deadline = self._loop.time() + HEAD_TIME

    # The socket ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        peer = transport.get_extra_info("peername")
        self._client = peer[0] if isinstance(peer, tuple) else None
        if not self._listener.opened(self):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._listener.closed(self)
        self._hear_no_more()
        self._clear_line()

    def pause_writing(self) -> None:
        self._clogged = True
        self.deadline = self._loop.time() + HEAD_TIME
        self._pause_or_resume()

    def resume_writing(self) -> None:
        self._clogged = False
        self._renew()
        self._advance()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._read = len(data)
        if self._reading is not None:
            self._fed += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError:
            log.exception("cannot read a request", action="http_failed")
            self.abort()  # nothing was promised: whoever it was comes again
            return
        except httptools.HttpParserError:
            self._end_with(_BAD)
        if self._reading is not None:
            self._not_whole(self._reading)
        self._advance()

    def _feed(self, data: bytes) -> None:
        while data and not self._deaf:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade(data[upgrade.args[0] :])
            else:
                return

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Go on as if no other protocol had been asked for: the body follows, as the head has announced it."""
        reading = self._reading
        if reading is None:
            return b""
        self._parser = httptools.HttpRequestParser(self)
        self._replaced = True
        if "transfer-encoding" in reading.headers:
            framing = f"transfer-encoding: {reading.headers['transfer-encoding']}"
        else:
            framing = f"content-length: {reading.headers.get('content-length', '0')}"
        return _BODY_ONLY % framing.encode("latin-1") + rest

    def _not_whole(self, reading: Request) -> None:
        if self._fed > HEAD_BYTES:  # of a head, or of what stands between and behind the parts of a body
            self._end_with(_LARGE_HEAD)
        elif reading.wanted:
            self._listener.budget.wait(reading)

    # The parser's calls -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if not (self._replaced or self._deaf):
            reading = self._reading = Request(self, self._client)
            self._head = reading.headers
            self._first, self._fed, self._repeated, self._fresh = self._read, 0, 0, True
            self.idle_since = None

    def on_url(self, url: bytes) -> None:
        if self._reading is not None and not self._replaced:
            self._reading.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._head
        if headers is None:
            return
        key = name.decode("latin-1").lower()
        if key in headers:
            self._repeat(key, value.decode("latin-1"), headers)
        else:
            headers[key] = value.decode("latin-1")

    def _repeat(self, key: str, value: str, headers: dict[str, str]) -> None:
        headers[key] = f"{headers[key]}, {value}"
        self._repeated += len(key) + 4  # with what stands around it: each time is work, however short it is
        if self._repeated + len(headers[key]) > HEAD_BYTES:
            self._end_with(_LARGE_HEAD)

    def on_headers_complete(self) -> None:
        reading = self._reading
        if reading is None or self._replaced:
            self._replaced = False
            return
        self._head = None
        reading.method = self._parser.get_method()
        reading.keep_alive = self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1"
        reading.since = self._loop.time()
        self._fresh = True
        if self._first + self._fed > HEAD_BYTES and _size(reading) + self._repeated > HEAD_BYTES:
            self._end_with(_LARGE_HEAD)
            return
        self._fed = 0
        early = self._listener.site.begin(reading)
        if early is None:
            reading.wanted = True
            if "expect" in reading.headers and self._working is None and not self._line:
                self._transport.write(_CONTINUE)
        elif _announced(reading.headers) > (0 if "expect" in reading.headers else SWALLOWED):
            self._end_with(early)
        else:
            self._line.append((reading, early))

    def on_body(self, chunk: bytes) -> None:
        reading = self._reading
        if reading is None:
            return
        size = len(chunk)
        reading.size += size
        self._fed = 0
        if not reading.wanted:
            if reading.size > SWALLOWED:
                self._end_with(None)
        elif reading.size > reading.limit:
            self._give_up(reading, GaveUp.TOO_LARGE)
        elif not self._listener.budget.grow(reading, size):
            self._give_up(reading, GaveUp.TOO_MUCH)
        elif reading.body:
            reading.add(chunk)
        else:  # most bodies come in one piece
            reading.body = chunk

    def on_message_complete(self) -> None:
        reading = self._reading
        if reading is None or self._parser.should_upgrade():
            return
        self._reading = None
        if reading.wanted:
            if self._listener.budget.unfinished:
                self._listener.budget.whole(reading)
            self._line.append((reading, None))
        if len(self._line) > MAX_PIPELINED:
            self.abort()

    # Answers ------------------------------------------------------------------------------------------------------

    def answer(self, request: Request, answer: Answer) -> None:
        """Write the answer to the request that the site has, and go on with the next one."""
        self._listener.budget.give(request)
        self._working = None
        self._write(request, answer)
        self._advance()

    def _advance(self) -> None:
        """Answer, or hand to the site, what stands in the line; else rest."""
        while self._line and self._working is None and not self._clogged and not self._transport.is_closing():
            request, answer = self._line.popleft()
            if answer is None and request is not None:
                self._working = request
                self._listener.site.arrived(request)  # it may answer at once
            else:
                self._write(request, answer)
        self._renew()
        if self._line or self._paused or self._clogged:
            self._pause_or_resume()

    def _write(self, request: Request | None, answer: Answer | None) -> None:
        """`request`: None for the connection's last words."""
        if self._transport.is_closing():  # nobody listens any more
            return
        close = request is None or not request.keep_alive or self._listener.stopping
        if answer is not None:
            self._transport.write(encoded(answer, close, request is not None and request.method == b"HEAD"))
        if close:
            self._linger()

    def _end_with(self, answer: Answer | None) -> None:
        """Read no more; say this after what stands in the line is answered, and close."""
        if not self._deaf:
            self._hear_no_more()
            self._line.append((None, answer))

    def _give_up(self, reading: Request, why: GaveUp) -> None:
        self._end_with(self._listener.site.give_up(reading, why))

    def _hear_no_more(self) -> None:
        self._fresh = self._fresh or not self._deaf
        self._deaf = True
        if self._reading is not None:
            self._listener.budget.give(self._reading)
            self._reading = self._head = None

    def _clear_line(self) -> None:
        while self._line:
            request, _ = self._line.popleft()
            if request is not None:
                self._listener.budget.give(request)

    def _linger(self) -> None:
        """Close, but not before the client could read the answer: data that arrives after a close resets it."""
        self._hear_no_more()
        self._clear_line()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    # Time ---------------------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """The deadline of what it does now; it keeps the one it has unless a head, a body or the end has just begun."""
        fresh, self._fresh = self._fresh, False
        if self._working is not None or self._line:
            self.idle_since = None
            if not self._clogged:
                self.deadline = inf
            return
        now = self._loop.time()
        if self._deaf:
            if fresh or self.deadline == inf:
                self.deadline = now + LINGER_TIME
        elif self._reading is None:
            if self.idle_since is None:
                self.idle_since = now
                self.deadline = now + (LAST_CALL if self._listener.stopping else IDLE_TIME)
        elif fresh or self.deadline == inf:
            self.deadline = now + (self._listener.site.body_time if self._reading.since else HEAD_TIME)

    def _pause_or_resume(self) -> None:
        """Read no further while a request waits behind another, or answers are not taken."""
        pause = self._clogged or (self._working is not None and bool(self._line))
        if pause != self._paused and not self._transport.is_closing():
            self._paused = pause
            (self._transport.pause_reading if pause else self._transport.resume_reading)()

    def evict(self) -> None:
        """Give up the body that is arriving, to make room for others."""
        if self._reading is not None:
            self._give_up(self._reading, GaveUp.TOO_MUCH)
            self._advance()

    def expire(self) -> None:
        """The deadline has passed."""
        reading = self._reading
        if reading is None or self._clogged:
            self.abort()
        elif reading.since and reading.wanted:
            self._give_up(reading, GaveUp.TOO_SLOW)
        else:
            self._end_with(None if reading.since else _SLOW_HEAD)  # a body that nobody wants has its answer already
        self._advance()

    def last_call(self) -> None:
        """The listener stops: one more request may come, if it comes soon."""
        if self.idle_since is not None:
            self.deadline = min(self.deadline, self._loop.time() + LAST_CALL)

    def abort(self) -> None:
        """Cut the connection."""
        self._hear_no_more()
        self._clear_line()
        self._transport.abort()


def _size(request: Request) -> int:
    """Bytes of the head, as far as it is ours to keep."""
    return len(request.url) + sum(len(name) + len(value) for name, value in request.headers.items())


def _announced(headers: Mapping[str, str]) -> float:
    """Bytes that the body will have; infinity where it is chunked."""
    if "transfer-encoding" in headers:
        return inf
    length = headers.get("content-length", "0")
    return int(length) if length.isdigit() and len(length) < 16 else inf


_REASONS: Final = {
    200: "OK", 202: "Accepted", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable", 408: "Request Timeout", 410: "Gone",
    413: "Content Too Large", 415: "Unsupported Media Type", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


@lru_cache(maxsize=256)
def encoded(answer: Answer, close: bool, head: bool) -> bytes:  # noqa: FBT001 - lru_cache is cheapest so
    """The bytes of a response. `close`: the connection ends with it. `head`: the answer to HEAD, without its body."""
    lines = [
        f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Status')}",
        f"content-type: {answer.content_type}",
        f"content-length: {len(answer.body)}",
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    if close:
        lines.append("connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (b"" if head else answer.body)


_BAD: Final = Answer(status=400, body=b"bad request\n")
_SLOW_HEAD: Final = Answer(status=408, body=b"the head of the request did not arrive in time\n")
_LARGE_HEAD: Final = Answer(status=431, body=b"the head of the request is too large\n")
