"""Values in Postgres's binary form, for connections that write events or read the log.

uuid and inet are bytes where events are written, as rows hold them. Times and lists the driver knows too, but takes
longer for these three or four of fifty columns than for all the others (docs/performance.md).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import asyncpg

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TEXT: Final = 25  # oids
_UUID: Final = 2950
_TEXTS: Final = 1009
_UUIDS: Final = 2951

_empty: Final = struct.Struct(">iii").pack  # dimensions, whether there are NULLs, the members' oid
_head: Final = struct.Struct(">iiiii").pack  # the same, number of members, number of the first
_length: Final = struct.Struct(">i").pack
_HEAD: Final = 20  # bytes
_SIXTEEN: Final = _length(16)


async def prepare(connection: asyncpg.Connection) -> None:
    """Make a connection that writes events exchange values so. An array must have one dimension and no NULL."""
    settings: Any = connection._protocol.get_settings()  # type: ignore[attr-defined]  # noqa: SLF001 - no other way for arrays
    settings.add_python_codec(_TEXTS, "_text", "pg_catalog", [], "scalar", texts, texts_of, "binary")
    settings.add_python_codec(_UUIDS, "_uuid", "pg_catalog", [], "scalar", uuids, uuids_of, "binary")
    for name in ("uuid", "inet"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary")
    await prepare_moments(connection)


async def prepare_moments(connection: asyncpg.Connection) -> None:
    """Make a connection exchange times so."""
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=moment, decoder=moment_of, format="binary"
    )


def moment(value: datetime) -> bytes:
    return _moment(value) if value.microsecond else _whole_second(value)


def _moment(value: datetime) -> bytes:
    return ((value - _EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True)


_whole_second: Final = lru_cache(maxsize=4096)(_moment)  # the events of a batch share few of them


@lru_cache(maxsize=4096)  # the events of a batch share few moments
def moment_of(data: bytes) -> datetime:
    """Raises OverflowError for infinity."""
    seconds, microseconds = divmod(int.from_bytes(data, "big", signed=True), 1_000_000)
    return _EPOCH + timedelta(0, seconds, microseconds)


def texts(values: Sequence[str]) -> bytes:
    return _texts(tuple(values))


@lru_cache(maxsize=4096)  # the events of a campaign share their tags
def _texts(values: tuple[str, ...]) -> bytes:
    if not values:
        return _empty(0, 0, _TEXT)
    encoded = [str.encode(value) for value in values]
    return _head(1, 0, _TEXT, len(values), 1) + b"".join(_length(len(one)) + one for one in encoded)


def texts_of(data: bytes) -> list[str]:
    found, start = [], _HEAD
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        found.append(data[start + 4 : end].decode())
        start = end
    return found


def uuids(values: Sequence[bytes]) -> bytes:
    return _head(1, 0, _UUID, len(values), 1) + _SIXTEEN + _SIXTEEN.join(values) if values else _empty(0, 0, _UUID)


def uuids_of(data: bytes) -> list[bytes]:
    return [data[start : start + 16] for start in range(_HEAD + 4, len(data), 20)]
