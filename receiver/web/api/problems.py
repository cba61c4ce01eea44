"""What went wrong, as a problem document (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from http import HTTPStatus
from typing import Final

import asyncpg
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = 5  # seconds


class Kind(Enum):
    """Each with its status and title; the name is the end of its `type`."""

    MALFORMED = 400, "The request cannot be read"
    UNAUTHORIZED = 401, "No valid key or token"
    MISSING_SCOPE = 403, "The key may not do this"
    NOT_FOUND = 404, "There is no such thing"
    METHOD_NOT_ALLOWED = 405, "Not with this method"
    TOO_SLOW = 408, "The body did not arrive in time"
    CONFLICT = 409, "It contradicts what is there"
    IN_HAND = 409, "A request with this Idempotency-Key is in hand"
    TOO_LARGE = 413, "The body is too large"
    UNSUPPORTED_MEDIA_TYPE = 415, "The body is not JSON"
    INVALID = 422, "The request has a wrong value"
    IDEMPOTENCY_KEY_REUSED = 422, "Another request had this Idempotency-Key"
    TOO_MANY = 429, "Too many requests"
    FAULT = 500, "A fault of the service"
    UNAVAILABLE = 503, "The database cannot be asked now"

    @property
    def status(self) -> int:
        return self.value[0]

    @property
    def title(self) -> str:
        return self.value[1]

    @property
    def type(self) -> str:
        return f"urn:receiver:problem:{self.name.lower().replace('_', '-')}"


class Fault(BaseModel):
    """One wrong value. `pointer`: where it is in the body (RFC 6901); `parameter`: in the path or query."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None


class ProblemDocument(BaseModel):
    """What went wrong (RFC 9457). `type` tells programs, `detail` tells people."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = None


class Problem(Exception):
    """Ends a request with a problem document; its transaction is undone."""

    def __init__(
        self, kind: Kind, detail: str, *, errors: Sequence[Fault] = (), headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = list(errors)
        self.headers = headers

    def response(self) -> Response:
        document = ProblemDocument(
            type=self.kind.type,
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            errors=self.errors or None,
        )
        answer = Response(document.model_dump_json(exclude_none=True), self.kind.status, media_type=MEDIA_TYPE)
        for name, value in self.headers:
            answer.headers.append(name, value)
        return answer


def not_found(what: str) -> Problem:
    return Problem(Kind.NOT_FOUND, f"there is no such {what}")


def wrong(pointer: str, detail: str) -> Problem:
    """One wrong value in the body, at `pointer` (such as `/topic`)."""
    return Problem(Kind.INVALID, detail, errors=[Fault(detail=detail, pointer=f"#{pointer}")])


def unavailable(detail: str) -> Problem:
    return Problem(Kind.UNAVAILABLE, detail, headers=[("retry-after", str(RETRY_AFTER))])


def of_database(error: Exception) -> Problem | None:
    """What an error of the database is for who asked; None: a fault of ours."""
    if isinstance(error, asyncpg.QueryCanceledError):
        return unavailable("it took too long: ask for less, such as a shorter time")
    if isinstance(error, (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)):
        return unavailable("somebody else changes the same rows")
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate and error.sqlstate[:2] not in _OURS:
        return unavailable("the database does not answer")
    if isinstance(error, (asyncpg.InterfaceError, OSError, TimeoutError)) and not isinstance(error, ValueError):
        return unavailable("the database does not answer")
    return None


_OURS: Final = frozenset({"22", "23", "42"})  # wrong data, a constraint, a statement: no outage


def of_validation(error: ValidationError, parameters: Mapping[str, object] | None = None) -> Problem:
    """What pydantic found. `parameters`: the values came from there, else from the body."""
    faults = [
        _fault(one["loc"], _said(one["type"], one["msg"]), in_body=parameters is None)
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    count = "one value is wrong" if len(faults) == 1 else f"{len(faults)} values are wrong"
    return Problem(Kind.INVALID, f"{count}: {faults[0].detail}", errors=faults[:100])


def _fault(place: tuple[int | str, ...], detail: str, *, in_body: bool) -> Fault:
    if in_body:
        pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in place)
        return Fault(detail=detail, pointer=f"#{pointer}")
    return Fault(detail=detail, parameter=str(place[0]) if place else None)


def _said(type_: str, message: str) -> str:
    match type_:
        case "extra_forbidden":
            return "there is no such field"
        case "missing":
            return "is missing"
        case _:
            return message.removeprefix("Value error, ")


STATUSES: Final = {status: HTTPStatus(status).phrase for status in sorted({kind.status for kind in Kind})}
