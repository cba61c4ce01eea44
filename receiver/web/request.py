"""What the public listener and its sites hand to each other: a request, and what a site has to offer."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote_to_bytes

from receiver.contract import Answer
from receiver.sources import Source

if TYPE_CHECKING:
    from receiver.web.http import Connection


class GaveUp(Enum):
    """Why a body was not read whole."""

    TOO_LARGE = auto()
    TOO_SLOW = auto()
    TOO_MUCH = auto()  # in flight, over all connections


class Request:
    """One request. `headers` have lower-case names, the values of a repeated one are joined with ", ".

    `limit`: bytes that the body may have. `since`: when its head was whole, by the loop's clock; 0 before.
    `taken`: bytes of the budget. `wanted`: the site has asked for the body. `part`: of the site, that has it.
    """

    __slots__ = ("body", "client", "connection", "headers", "keep_alive", "limit", "method", "part", "path", "query",
                 "since", "size", "source", "taken", "url", "wanted")  # fmt: skip

    def __init__(self, connection: Connection, client: str | None) -> None:
        self.connection = connection
        self.client = client
        self.method = b""
        self.url = b""
        self.query = ""
        self.path = ""
        self.headers: dict[str, str] = {}
        self.body: bytes | bytearray = b""
        self.size = 0
        self.limit = 0
        self.since = 0.0
        self.taken = 0
        self.keep_alive = True
        self.wanted = False
        self.source: Source | None = None
        self.part: Part | None = None

    def add(self, chunk: bytes) -> None:
        """A further part of the body. Small parts are joined at once: each would cost more than it holds."""
        if not isinstance(self.body, bytearray):
            self.body = bytearray(self.body)
        self.body += chunk

    def target(self) -> tuple[str, str]:
        """(path, query) of the URL."""
        path, _, query = self.url.partition(b"?")
        if not path.startswith(b"/"):  # the absolute form, as clients send it to a proxy
            path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
        if b"%" in path:
            path = unquote_to_bytes(path)
        return path.decode("latin-1"), query.decode("latin-1")


class Part(Protocol):
    """What answers requests. Every request that began is answered once, by `request.connection.answer`."""

    def begin(self, request: Request) -> Answer | None:
        """The head is whole: None to get the body (after setting `limit`), or the answer that needs none."""
        ...

    def arrived(self, request: Request) -> None:
        """The body is whole and within `limit`."""
        ...

    def give_up(self, request: Request, why: GaveUp) -> Answer:
        """The answer to a request whose body does not come whole."""
        ...


class Site(Part, Protocol):
    """What a listener serves. `body_time`: seconds that a body may take to arrive."""

    body_time: float
