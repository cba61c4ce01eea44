"""The work of `receiver contacts list` and `export`."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

import asyncpg

from receiver.cli.database import connected
from receiver.cli.failures import CommandError
from receiver.cli.lines import note
from receiver.cli.output import json_line, table
from receiver.cli.place import Place
from receiver.cli.progress import progress
from receiver.contacts import exporting, segments
from receiver.contacts.filter_sql import Where, where
from receiver.contacts.filters import AllOf, read_filter
from receiver.private_files import MODE
from receiver.store import listing
from receiver.store.segments import count
from receiver.store.topics import topics

STATES: Final = ("subscribed", "pending", "unsubscribed")
_EVERY: Final = 1000  # contacts between two looks at the progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which people; None: all. `state`: of the subscription to `topic`."""

    topic: str | None = None
    state: str | None = None
    tag: str | None = None
    domain: str | None = None
    segment: str | None = None


async def list_newest(place: Place, which: Which, limit: int, *, as_json: bool) -> None:
    async with connected(place.database()) as connection:
        rows = await listing.newest(connection, *await _condition(connection, which), limit=limit)
    if as_json:
        for row in rows:
            json_line({**exporting.as_object(dict(row)), "created_at": row["created_at"]})
        return
    shown = [(row["address"], row["name"], row["tags"] or None, _said(row), row["created_at"]) for row in rows]
    table(("address", "name", "tags", "topics", "created_at"), shown, empty="nobody")


def _said(row: asyncpg.Record) -> str | None:
    said = exporting.as_object(dict(row))["topics"]
    return ", ".join(f"{topic} ({state})" for topic, state in sorted(said.items())) or None


async def export(place: Place, which: Which, format_: str, out: Path | None) -> None:
    """All at one moment. Into a file whole or not at all, else to standard output."""
    async with connected(place.database()) as connection:
        condition = await _condition(connection, which)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            total = await count(connection, *condition)
            names = await listing.columns(connection, *condition) if format_ == "csv" else ([], [])
            with _written(out) as file, progress("exporting", total) as done:
                writer = exporting.Csv(file, *names) if format_ == "csv" else exporting.JsonLines(file)
                number = 0
                async for row in listing.everybody(connection, *condition):
                    writer.write(dict(row))
                    number += 1
                    if number % _EVERY == 0:
                        done(number)
    note(f"exported {total} people" + (f" to {out}" if out else ""))


async def _condition(connection: asyncpg.Connection, which: Which) -> Where:
    """Raises CommandError for an unknown topic, UnknownSegment, WrongFilter."""
    if which.topic is not None and not await topics(connection, [which.topic]):
        raise CommandError(f"there is no topic {which.topic}; `receiver topics list --all` shows those there are")
    if which.state is not None and which.topic is None:
        raise CommandError("--state is that of a subscription: say --topic too")
    chosen = [read_filter(part) for part in _parts(which)]
    if which.segment is not None:
        chosen.append((await segments.get(connection, which.segment)).filter)
    return where(AllOf(all=tuple(chosen)), datetime.now(UTC)) if chosen else Where("true", ())


def _parts(which: Which) -> Iterator[dict[str, Any]]:
    """The options as a filter of segments."""
    if which.topic is not None:
        yield {"topic": which.topic, "state": [which.state] if which.state else list(STATES)}
    if which.tag is not None:
        yield {"tag": which.tag}
    if which.domain is not None:
        yield {"field": "domain", "equals": which.domain.lower()}


@contextmanager
def _written(out: Path | None) -> Iterator[TextIO]:
    """A file that takes its name once it is whole; only its owner may read it, for it is a list of people."""
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    unfinished = out.with_name(f"{out.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(unfinished, flags, MODE), "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(out)
    except BaseException:  # Ctrl-C included: no half file stays behind
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
