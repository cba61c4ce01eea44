"""From a request to what its operation is called with: strict about JSON, clear about what is wrong."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NoReturn

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from receiver.web.api.problems import Fault, Kind, Problem, of_validation

MAX_BODY: Final = 1 << 20
SLOW: Final = 10.0  # seconds for a body to arrive
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_JSON: Final = re.compile(r"application/(json|[a-z0-9.+-]+\+json)\s*(;\s*charset=\"?utf-8\"?\s*)?", re.IGNORECASE)


async def read_body(request: Request, most: int = MAX_BODY) -> bytes:
    """The body. Raises Problem where it is too large, too slow, or encoded."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, "the body must come without a content encoding")
    found = bytearray()
    try:
        async with asyncio.timeout(SLOW):
            async for part in request.stream():
                found += part
                if len(found) > most:
                    raise Problem(Kind.TOO_LARGE, f"the body has more than {most} bytes")
    except TimeoutError:
        raise Problem(Kind.TOO_SLOW, f"the body must arrive within {SLOW:.0f} seconds") from None
    except ClientDisconnect:
        raise Problem(Kind.MALFORMED, "the body was cut off") from None
    return bytes(found)


def parse_body(model: type[BaseModel], content_type: str, body: bytes) -> Any:
    """The body as `model`. Raises Problem."""
    if not _JSON.fullmatch(content_type.strip()):
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, "send JSON, and say so: Content-Type: application/json")
    value = _json(body)
    try:
        for place, text in _texts(value, ""):
            _check_text(place, text)
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise of_validation(error) from None


def parse_query(model: type[BaseModel] | None, pairs: list[tuple[str, str]]) -> Any:
    """The query as `model`; None takes no parameters. Raises Problem."""
    kinds = _kinds(model) if model else {}
    values: dict[str, Any] = {}
    for name, text in pairs:
        kind = kinds.get(name)
        if kind is None:
            raise _wrong(name, "there is no such parameter" + (f"; there are: {', '.join(kinds)}" if kinds else ""))
        if kind == "array":
            values.setdefault(name, []).append(text)
        elif name in values:
            raise _wrong(name, "is given twice")
        else:
            values[name] = _typed(name, kind, text)
    return None if model is None else validated(model, values)


def validated(model: type[BaseModel], values: Mapping[str, Any]) -> Any:
    """Parameters of path or query as `model`. Raises Problem."""
    for name, text in values.items():
        if isinstance(text, str) and "\0" in text:
            raise _wrong(name, "holds U+0000")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise of_validation(error, values) from None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        known = isinstance(error, _NotJson)
        raise Problem(Kind.MALFORMED, f"the body is not JSON{f': {error}' if known else ''}") from None


class _NotJson(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotJson("a name stands twice in one object")
    return found


def _no_number(_: str) -> NoReturn:
    raise _NotJson("NaN and Infinity are no numbers")


def _texts(value: object, place: str) -> Iterator[tuple[str, str]]:
    """Each text within JSON, names included, and where it is."""
    match value:
        case str():
            yield place, value
        case float() if value in (float("inf"), float("-inf")):
            raise Problem(
                Kind.INVALID, "a number is too large", errors=[Fault(detail="is too large", pointer=f"#{place}")]
            )
        case dict():
            for name, one in value.items():
                yield place, name
                yield from _texts(one, f"{place}/{name.replace('~', '~0').replace('/', '~1')}")
        case list():
            for number, one in enumerate(value):
                yield from _texts(one, f"{place}/{number}")
        case _:
            pass


def _check_text(place: str, text: str) -> None:
    """Postgres holds neither; a half of a surrogate pair is not even Unicode."""
    if "\0" in text or not _is_unicode(text):
        where = place.encode(errors="replace").decode()
        raise Problem(
            Kind.INVALID,
            "a text holds U+0000 or half a surrogate pair",
            errors=[Fault(detail="holds U+0000 or half a surrogate pair", pointer=f"#{where}")],
        )


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@lru_cache
def _kinds(model: type[BaseModel]) -> Mapping[str, str]:
    """The JSON type of each parameter."""
    return {name: _kind(schema) for name, schema in model.model_json_schema()["properties"].items()}


def _kind(schema: Mapping[str, Any]) -> str:
    choices = schema.get("anyOf", [schema])
    return next((str(one["type"]) for one in choices if one.get("type", "null") != "null"), "string")


def _typed(name: str, kind: str, text: str) -> str | int | bool:
    if kind == "integer":
        if not _INTEGER.fullmatch(text):
            raise _wrong(name, "is not a whole number")
        return int(text)
    if kind == "boolean":
        if text not in ("true", "false"):
            raise _wrong(name, "is neither true nor false")
        return text == "true"
    return text


def _wrong(name: str, detail: str) -> Problem:
    return Problem(Kind.INVALID, f"{name}: {detail}", errors=[Fault(detail=detail, parameter=name)])
