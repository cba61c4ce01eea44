"""Kinds of values that clients send, with their part of the OpenAPI document."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from receiver.contacts.addresses import Address, entered

MAX_ADDRESS: Final = 320
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)


def _address(value: object) -> Address:
    if not isinstance(value, str) or len(value) > MAX_ADDRESS:
        raise ValueError(f"is not text of at most {MAX_ADDRESS} characters")
    return entered(value)


def _moment(value: object) -> datetime:
    """What lies far outside of the time that anything is stored about would only overflow: it is brought nearer."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("is not a time with its zone, such as 2026-01-31T12:00:00Z")
    return min(max(datetime.fromisoformat(value.upper()), _EARLIEST), _LATEST)


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: the name of a directory
        raise ValueError("is not a name of the IANA database, such as Europe/Vienna") from error
    return value


def _as_schema(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema(schema)


EmailAddress = Annotated[
    Address,
    PlainValidator(_address),
    PlainSerializer(lambda address: address.key, return_type=str),
    _as_schema(type="string", format="email", maxLength=MAX_ADDRESS),
]
Moment = Annotated[datetime, BeforeValidator(_moment)]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Tag = Annotated[str, Field(min_length=1, max_length=100)]
Words = Annotated[str, Field(max_length=4000)]
Reason = Annotated[str, Field(min_length=1, max_length=1000)]
Locale = Annotated[str, Field(max_length=35, pattern=r"^[A-Za-z]{2,8}([_-][A-Za-z0-9]{1,8})*$")]
TimeZone = Annotated[str, Field(max_length=64), AfterValidator(_zone)]
