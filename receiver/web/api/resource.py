"""One path of the API as an ASGI application: who asks, what for, once, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import structlog
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from receiver.policy_settings import PolicySettings
from receiver.sending.means import Means
from receiver.vault import Vault
from receiver.web.api import idempotency
from receiver.web.api.authentication import Gate, Key
from receiver.web.api.cursors import make_cursor, read_cursor
from receiver.web.api.operations import Call, Found, Listing, Made, Operation
from receiver.web.api.problems import Fault, Kind, Problem, of_database
from receiver.web.api.reading import parse_body, parse_query, read_body, validated
from receiver.web.api.tables import to_csv

log = structlog.get_logger("api")

WAIT: Final = 3.0  # seconds for a connection: while others have them all, it is better to ask again than to queue
_HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@dataclass(frozen=True, slots=True)
class World:
    """What every operation may need."""

    pool: asyncpg.Pool
    vault: Vault
    public_url: str | None
    policy: PolicySettings
    means: Means


class Resource:
    """The operations of one path."""

    def __init__(self, world: World, gate: Gate, operations: Sequence[Operation]) -> None:
        self._pool = world.pool
        self._vault = world.vault
        self._world = world
        self._gate = gate
        self._operations = {one.method: one for one in operations}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive))
        response.headers.update(_HEADERS)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        began, key = time.monotonic(), None
        operation: Operation | None = None
        try:
            operation = self._wanted(request)
            key = await self._entered(request, operation)
            response = await self._run(request, operation, key)
        except Exception as error:  # noqa: BLE001 - whatever it was is logged, and answered as a problem
            response = _problem(error, operation).response()
        if key is not None:
            response.headers.update(self._gate.limits(key))
        log.info(
            "api request",
            action="api_request",
            operation=operation.id if operation else None,
            key=key.id if key else None,
            status=response.status_code,
            ms=round((time.monotonic() - began) * 1000, 1),
        )
        return response

    def _wanted(self, request: Request) -> Operation:
        """Raises Problem."""
        operation = self._operations.get("GET" if request.method == "HEAD" else request.method)
        if operation is None:
            allowed = ", ".join(sorted(self._operations))
            raise Problem(Kind.METHOD_NOT_ALLOWED, f"this path takes {allowed}", headers=[("allow", allowed)])
        return operation

    async def _entered(self, request: Request, operation: Operation) -> Key:
        client = request.client.host if request.client else None
        async with self._pool.acquire(timeout=WAIT) as connection:
            key = await self._gate.enter(connection, request.headers, client)
        if operation.scope not in key.scopes:
            raise Problem(
                Kind.MISSING_SCOPE,
                f"this needs the scope {operation.scope}",
                headers=[("www-authenticate", f'Bearer error="insufficient_scope", scope="{operation.scope}"')],
            )
        return key

    async def _run(self, request: Request, operation: Operation, key: Key) -> Response:
        body = await read_body(request)
        values = self._values(request, operation, body)
        once = idempotency.asked(request, key, body) if operation.writes else None
        async with (
            self._pool.acquire(timeout=WAIT) as connection,
            connection.transaction(readonly=not operation.writes),
        ):

            async def do() -> Response:
                call = Call(
                    sql=connection,
                    vault=self._vault,
                    key=key,
                    public_url=self._world.public_url,
                    policy=self._world.policy,
                    means=self._world.means,
                    **values,
                )
                return self._response(request, operation, await operation.run(call), values)

            return await do() if once is None else await idempotency.once(connection, self._vault, once, do)

    def _values(self, request: Request, operation: Operation, body: bytes) -> dict[str, Any]:
        """What the operation is called with. Raises Problem."""
        found = {
            "path": validated(operation.in_path, request.path_params) if operation.in_path else None,
            "query": parse_query(operation.query, request.query_params.multi_items()),
            "body": None,
        }
        if operation.body:
            found["body"] = parse_body(operation.body, request.headers.get("content-type", ""), body)
        elif body:
            raise Problem(Kind.INVALID, "this takes no body", errors=[Fault(detail="is not expected", pointer="#")])
        listing = _listing(found)
        after = None
        if listing is not None and listing.cursor is not None:
            after = read_cursor(self._vault, _name(operation, found), listing.cursor)
        return {**found, "after": after}

    def _response(self, request: Request, operation: Operation, what: Any, values: Mapping[str, Any]) -> Response:
        match what:
            case None:
                return Response(status_code=204)
            case Made(made, location):
                location = operation.root + location
                return Response(made.model_dump_json(), 201, {"location": location}, "application/json")
            case Found(items, after):
                place = None if after is None else make_cursor(self._vault, _name(operation, values), after)
                return _page(request, operation, items, place)
            case str():
                return Response(what, media_type="application/json")
            case _:
                return Response(what.model_dump_json(), media_type="application/json")


def _page(request: Request, operation: Operation, items: Sequence[BaseModel], place: str | None) -> Response:
    assert operation.answer is not None
    if _wants_csv(request.headers.get("accept", "")):
        response = Response(to_csv(item_model(operation.answer), items), media_type="text/csv")
    else:
        response = Response(operation.answer(items=items, next=place).model_dump_json(), media_type="application/json")
    response.headers["vary"] = "accept"
    if place is not None and request.method == "GET":
        url = request.url.include_query_params(cursor=place)
        response.headers["link"] = f'<{url.path}?{url.query}>; rel="next"'
    return response


def item_model(page: type[BaseModel]) -> type[BaseModel]:
    """What a page is a list of."""
    model: type[BaseModel] = page.model_fields["items"].annotation.__args__[0]  # type: ignore[union-attr]  # list[...]
    return model


def _wants_csv(accept: str) -> bool:
    kinds = [one.partition(";")[0].strip().lower() for one in accept.split(",")]
    if "text/csv" not in kinds:
        return False
    return "application/json" not in kinds or kinds.index("text/csv") < kinds.index("application/json")


def _listing(values: Mapping[str, Any]) -> Listing | None:
    return next((one for one in (values["query"], values["body"]) if isinstance(one, Listing)), None)


def _name(operation: Operation, values: Mapping[str, Any]) -> str:
    """The listing with its filters: what its cursors are good for."""
    listing = _listing(values)
    path = values["path"].model_dump_json() if values["path"] else ""
    asked = listing.model_dump_json(exclude={"limit", "cursor"}) if listing else ""
    return f"{operation.id} {path} {asked}"


def _problem(error: Exception, operation: Operation | None) -> Problem:
    if isinstance(error, Problem):
        return error
    known = of_database(error)
    name = operation.id if operation else None
    if known is not None:
        log.warning("api request failed", action="api_unavailable", operation=name, error=type(error).__name__)
        return known
    # Its text may quote anything that was asked for: only its kind, and where it arose.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_qualname}:{place.tb_lineno}" if place else None
    log.error("api request failed", action="api_fault", operation=name, error=type(error).__name__, where=where)
    return Problem(Kind.FAULT, "the service's log says more")
