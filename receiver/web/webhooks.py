"""`/webhooks/{source}`, `/healthz`, the pages, and `/oauth/token` for those who need it: the public listener's site."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import structlog

from receiver.contract import Answer, Delivery
from receiver.errors import Reason, Refused
from receiver.ingest.receive import Ingest, Receipt, again
from receiver.networks import Proxies
from receiver.oauth import PATH
from receiver.sources import Source
from receiver.web.body import decompress
from receiver.web.budget import Budget
from receiver.web.pages import Pages
from receiver.web.request import GaveUp, Request
from receiver.web.tokens import TokenEndpoint

log = structlog.get_logger("webhooks")

PREFIX: Final = "/webhooks/"
MARGIN: Final = 2.0  # seconds before the provider's own time-out at which we answer
LARGE: Final = 16 * 1024  # bytes of a body that is handled alone, so that small ones need not wait for it
_ALLOW: Final = ("allow", "POST, GET, HEAD, OPTIONS")
_OK: Final = Answer(status=200, body=b"ok\n")
_NOT_FOUND: Final = Answer(status=404, body=b"not found\n")
_NOT_ALLOWED: Final = Answer(status=405, body=b"method not allowed\n", headers=(_ALLOW,))
_READY: Final = Answer(status=200, body=b"this URL takes webhooks by POST\n")


class Webhooks:
    """The site behind the public listener: routes requests, and hands deliveries to `Ingest`.

    Small deliveries whose bodies became whole in the same turn of the loop are received together.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        ingest: Ingest,
        budget: Budget,
        *,
        body_timeout: float,
        proxies: Proxies,
        pages: Pages,
    ) -> None:
        self.body_time = body_timeout
        self._proxies = proxies
        self._tokens = TokenEndpoint(sources, ingest, proxies)
        self._pages = pages
        self._sources = sources
        self._plain = {f"{PREFIX}{name}".encode(): source for name, source in sources.items()}  # as most URLs are
        self._ingest = ingest
        self._budget = budget
        self._turn: list[Receipt] = []
        self._at, self._moment = datetime.now(UTC), time.monotonic()  # when the turn began
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._limits = {
            name: source.settings.max_body or source.provider.reply.max_body for name, source in sources.items()
        }
        self._waits = {name: source.provider.reply.timeout - MARGIN for name, source in sources.items()}
        self._alone = {name for name, source in sources.items() if getattr(source.provider, "waits", False)}

    # What the listener asks ---------------------------------------------------------------------------------------

    def begin(self, request: Request) -> Answer | None:
        """None to get the body of a delivery; else the answer."""
        source = self._plain.get(request.url)
        if source is not None and request.method == b"POST":
            return self._post(request, source, "", "")
        path, query = request.target()
        if not path.startswith(PREFIX):
            return self._elsewhere(request, path)
        name, _, rest = path[len(PREFIX) :].partition("/")
        source = self._sources.get(name)
        if source is None or (rest and not getattr(source.settings, "url_secret", None)):
            if request.method == b"POST":  # a mistyped URL, most likely: its provider may not come again
                self._ingest.counts["unknown_source", "", ""] += 1
            return _NOT_FOUND
        if request.method == b"POST" or (request.method == b"GET" and query and _by_get(source)):
            return self._post(request, source, query, rest)
        if request.method in (b"GET", b"HEAD"):  # providers' consoles probe the URL when it is saved
            return _READY
        return _options(request.headers) if request.method == b"OPTIONS" else _NOT_ALLOWED

    def _elsewhere(self, request: Request, path: str) -> Answer | None:
        if path == PATH and self._tokens:
            request.part = self._tokens
            return self._tokens.begin(request)
        if path[:3] in self._pages.paths:
            request.part = self._pages
            return self._pages.begin(request)
        return _healthz(request) if path == "/healthz" else _NOT_FOUND

    def _post(self, request: Request, source: Source, query: str, rest: str) -> Answer | None:
        request.source, request.query, request.path = source, query, rest
        request.limit = self._limits[source.name]
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and (len(announced) > 12 or int(announced) > request.limit):
            return self.give_up(request, GaveUp.TOO_LARGE)
        return None

    def give_up(self, request: Request, why: GaveUp) -> Answer:
        """The answer to a body that does not come whole."""
        if request.part is not None:
            return request.part.give_up(request, why)
        source = request.source
        assert source is not None
        if why is GaveUp.TOO_MUCH:
            self._ingest.counts["request", source.name, "again"] += 1
            return again(source)
        if why is GaveUp.TOO_SLOW:
            return self._refuse(request, source, Refused(Reason.TOO_SLOW, "the body did not arrive in time"))
        limit = f"the body has more than the allowed {request.limit} bytes"
        return self._refuse(request, source, Refused(Reason.TOO_LARGE, limit))

    def arrived(self, request: Request) -> None:
        """Receive the delivery; small ones together with the others of this turn."""
        if request.part is not None:
            request.part.arrived(request)
            return
        source = request.source
        assert source is not None
        name = source.name
        encoding = request.headers.get("content-encoding")
        if encoding and not self._decompress(request, source, encoding):
            return
        if not self._turn:  # for all of this turn
            self._at, self._moment = datetime.now(UTC), time.monotonic()
        # By differences alone: the loop's clock need not be the writer's.
        patience = self._waits[name] - (self._loop.time() - request.since)
        receipt = Receipt(
            source,
            self._delivery(request, source, request.body, self._at),
            deadline=self._moment + max(patience, 1.0),
            answer=partial(request.connection.answer, request),
        )
        if request.size > LARGE or name in self._alone:
            self._start(self._receive([receipt]))
            return
        self._turn.append(receipt)
        if len(self._turn) == 1:
            self._start(self._receive_turn())

    # ---------------------------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _receive_turn(self) -> None:
        """Runs when the turn of the loop in which the first of them became whole has ended."""
        receipts, self._turn = self._turn, []
        await self._receive(receipts)

    async def _receive(self, receipts: list[Receipt]) -> None:
        try:
            await self._ingest.receive(receipts)
        except Exception:  # a fault of ours: nothing was promised, so the providers are asked to come again
            log.exception("cannot receive", action="receive_failed", sources=[one.source.name for one in receipts])
            for one in receipts:
                if one.open:
                    self._ingest.put_off(one)

    def _decompress(self, request: Request, source: Source, encoding: str) -> bool:
        """Whether the request's body is plain now; else it is answered."""
        try:
            if not self._budget.grow(request, request.limit):  # it may grow up to the limit
                request.connection.answer(request, self.give_up(request, GaveUp.TOO_MUCH))
                return False
            request.body = decompress(bytes(request.body), encoding, request.limit)
        except Refused as refusal:
            request.connection.answer(request, self._refuse(request, source, refusal))
            return False
        return True

    def _delivery(self, request: Request, source: Source, body: bytes | bytearray, at: datetime) -> Delivery:
        headers, client = request.headers, request.client
        return Delivery(
            source=source.name,
            headers=headers,
            body=body if isinstance(body, bytes) else bytes(body),
            query=request.query,
            path=request.path,
            client=self._proxies.client(client, headers) if self._proxies.trusted else client,
            at=at,
        )

    def _refuse(self, request: Request, source: Source, refusal: Refused) -> Answer:
        """Count and sample a request that was refused before its body was read whole."""
        self._ingest.refused(
            source, self._delivery(request, source, b"", datetime.now(UTC)), refusal.reason, refusal.detail
        )
        self._ingest.counts["request", source.name, "refused"] += 1
        reply = source.provider.reply
        codes = {Reason.TOO_LARGE: reply.too_large, Reason.TOO_SLOW: reply.slow}
        return Answer(status=codes.get(refusal.reason, reply.bad_encoding), body=f"{refusal.detail}\n".encode())


def _by_get(source: Source) -> bool:
    return getattr(source.provider, "by_get", False)


def _healthz(request: Request) -> Answer:
    """The process answers; says nothing about what it depends on."""
    return _OK if request.method in (b"GET", b"HEAD") else Answer(status=405, headers=(("allow", "GET, HEAD"),))


def _options(headers: Mapping[str, str]) -> Answer:
    """CloudEvents' abuse protection asks by OPTIONS whether we want its webhooks; the URL was made for that."""
    extra = [_ALLOW]
    origin = headers.get("webhook-request-origin")
    if origin:
        extra.append(("webhook-allowed-origin", origin))
        if "webhook-request-rate" in headers:
            extra.append(("webhook-allowed-rate", "*"))
    return Answer(status=200, headers=tuple(extra))
