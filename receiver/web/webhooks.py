"""`/webhooks/{source}` as a bare ASGI application: the hot path, without a framework's request objects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import structlog

from receiver.contract import Answer, Delivery
from receiver.errors import Reason, Refused, Unavailable
from receiver.ingest.receive import RETRY_AFTER, Ingest
from receiver.sources import Source
from receiver.web.body import Disconnected, Message, Receive, decompress, read_body, too_large
from receiver.web.budget import Budget

Scope = Mapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

log = structlog.get_logger("webhooks")

PREFIX: Final = "/webhooks/"
MARGIN: Final = 2.0  # seconds before the provider's own time-out at which we answer
_ALLOW: Final = b"POST, GET, HEAD, OPTIONS"
_NOT_FOUND: Final = Answer(status=404, body=b"not found\n")
_TOO_LARGE: Final = Answer(status=413, body=b"the body is too large\n")
_NOT_ALLOWED: Final = Answer(status=405, body=b"method not allowed\n")
_READY: Final = Answer(status=200, body=b"this URL takes webhooks by POST\n")
_SLOW: Final = Answer(status=408, body=b"the body did not arrive in time\n")


class Webhooks:
    """The ASGI application of `/webhooks/...`."""

    def __init__(self, sources: Mapping[str, Source], ingest: Ingest, budget: Budget, *, body_timeout: float) -> None:
        self._sources = sources
        self._ingest = ingest
        self._budget = budget
        self._body_timeout = body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        source = self._sources.get(scope["path"][len(PREFIX) :].removesuffix("/"))
        if source is None:
            await _send(send, _NOT_FOUND)
            return
        method = scope["method"]
        if method == "POST":
            await self._post(source, scope, receive, send)
        elif method in ("GET", "HEAD"):  # providers' consoles probe the URL when it is saved
            await _send(send, _READY, head=method == "HEAD")
        elif method == "OPTIONS":
            await _send(send, Answer(status=200), extra=_options(headers_of(scope)))
        else:
            await _send(send, _NOT_ALLOWED, extra=[(b"allow", _ALLOW)])

    async def _post(self, source: Source, scope: Scope, receive: Receive, send: Send) -> None:
        deadline = time.monotonic() + max(source.provider.reply.timeout - MARGIN, 1.0)
        try:
            answer = await self._take(source, scope, receive, deadline)
        except Disconnected:
            return
        except TimeoutError:
            answer = _SLOW
        except Unavailable:
            answer = Answer(status=source.provider.reply.again, body=b"try again later\n")
        except Exception:  # a fault of ours: nothing was promised, so the provider is asked to come again
            log.exception("cannot receive", action="receive_failed", source=source.name)
            answer = Answer(status=source.provider.reply.again, body=b"try again later\n")
        again = answer.status == source.provider.reply.again or answer.status in (429, 503)
        await _send(send, answer, extra=[(b"retry-after", str(RETRY_AFTER).encode())] if again else ())

    async def _take(self, source: Source, scope: Scope, receive: Receive, deadline: float) -> Answer:
        headers = headers_of(scope)
        limit = source.settings.max_body or source.provider.reply.max_body
        announced = headers.get("content-length", "")
        encoding = headers.get("content-encoding", "")
        size = int(announced) if announced.isdigit() and len(announced) < 12 else limit
        # A compressed body may grow up to the limit, so the limit is what it costs.
        taken = await self._budget.take(limit if encoding else min(size, limit), within=deadline - time.monotonic())
        try:
            if size > limit:
                raise too_large(limit)
            async with asyncio.timeout(self._body_timeout):
                body = await read_body(receive, limit)
            if encoding:
                body = decompress(body, encoding, limit)
            return await self._ingest.receive(source, _delivery(source, scope, headers, body), deadline=deadline)
        except Refused as refusal:
            self._ingest.refused_unread(source, _delivery(source, scope, headers, b""), refusal)
            return _TOO_LARGE if refusal.reason is Reason.TOO_LARGE else Answer(status=400, body=b"bad encoding\n")
        finally:
            self._budget.give(taken)


def _delivery(source: Source, scope: Scope, headers: Mapping[str, str], body: bytes) -> Delivery:
    client = scope.get("client")
    query = scope.get("query_string", b"")
    return Delivery(
        source=source.name,
        headers=headers,
        body=body,
        query=query.decode("latin-1") if query else "",
        client=client[0] if client else None,
    )


def headers_of(scope: Scope) -> dict[str, str]:
    """Headers with lower-case names; the values of a repeated one joined with a comma."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1")
        value = raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _options(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """CloudEvents' abuse protection asks by OPTIONS whether we want its webhooks; the URL was made for that."""
    extra = [(b"allow", _ALLOW)]
    origin = headers.get("webhook-request-origin")
    if origin:
        extra.append((b"webhook-allowed-origin", origin.encode("latin-1")))
        if "webhook-request-rate" in headers:
            extra.append((b"webhook-allowed-rate", b"*"))
    return extra


async def _send(send: Send, answer: Answer, *, extra: Headers = (), head: bool = False) -> None:
    headers = [
        (b"content-type", answer.content_type.encode("latin-1")),
        (b"content-length", str(len(answer.body)).encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})
