"""The work of `receiver reprocess`: look, ask, change in transactions of a few hundred events, report."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple

import asyncpg

from receiver.cli.asking import go_on
from receiver.cli.database import connected
from receiver.cli.lines import note
from receiver.cli.output import json_line, table
from receiver.cli.place import Place, who
from receiver.cli.progress import progress
from receiver.contract import World
from receiver.event import EventType
from receiver.ingest.reread import Clock, Outcome, Release, Reread, reread, reread_entry
from receiver.outbound import Outbound
from receiver.sources import Source, bind_sources
from receiver.store import reprocessing, wire
from receiver.store.address_keys import check_address_key
from receiver.store.intake import BAD_ROWS, COLUMNS, MAX_ROWS, Row, write
from receiver.store.privacy import Privacy
from receiver.store.queries import write_audit
from receiver.store.reprocessing import CHUNK, Changed, Selection
from receiver.vault import Vault

DOES: Final = frozenset({Outcome.CHANGED, Outcome.STORED, Outcome.KNOWN})  # what there is to do
WORDS: Final = 20  # of which is told how to map them
_ID: Final = COLUMNS.index("id")
_TYPE: Final = COLUMNS.index("type")
_WORD: Final = COLUMNS.index("provider_type")
_WAIT: Final = 5000  # milliseconds for somebody else's transaction with the same ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for."""

    selection: Selection
    events: bool
    quarantine: bool
    dispatch: bool
    side_effects: bool


class Line(NamedTuple):
    """What is counted together. `was`: the event's type, or the kind of the entry in quarantine."""

    part: str
    source: str
    word: str | None
    was: str
    becomes: str | None
    outcome: Outcome


@dataclass(slots=True)
class Tally:
    """`handed`: rows for handlers. `released`: entries of the quarantine that are closed."""

    lines: Counter[Line] = field(default_factory=Counter)
    handed: int = 0
    released: int = 0

    def of(self, *outcomes: Outcome) -> int:
        return sum(count for line, count in self.lines.items() if line.outcome in outcomes)


@dataclass(frozen=True, slots=True)
class Reader:
    """What reading again needs."""

    connection: asyncpg.Connection
    sources: Mapping[str, Source]
    vault: Vault
    privacy: Privacy
    clock: Clock
    wanted: Wanted


async def run(place: Place, wanted: Wanted, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Raises ConfigError, CommandError, WrongSecretKey."""
    clock = Clock(datetime.now(UTC))
    wanted = replace(wanted, selection=replace(wanted.selection, until=min(wanted.selection.until, clock.at)))
    outbound = Outbound()  # some proofs need a certificate that has to be fetched
    try:
        sources = bind_sources(place.settings, World(fetch=outbound.fetch, now=clock))
        async with connected(place.database()) as connection:
            vault = place.vault()
            await check_address_key(connection, vault.address_fingerprint)
            await wire.prepare(connection)
            privacy = Privacy(vault.address_hash, place.settings.privacy.drop)
            reader = Reader(connection, sources, vault, privacy, clock, wanted)
            if dry_run or not yes:
                planned = await _go_through(reader, apply=False)
                _report(planned, as_json=as_json and dry_run)
                if not planned.of(*DOES):
                    note("there is nothing to change")
                    return
                if not go_on(dry_run=dry_run, yes=yes):
                    return
            await _do(reader, as_json=as_json)
    finally:
        await outbound.aclose()


async def _do(reader: Reader, *, as_json: bool) -> None:
    which = reader.wanted.selection
    await write_audit(reader.connection, who(), "reprocess", f"{', '.join(which.sources or ['all sources'])}")
    try:
        tally = await _go_through(reader, apply=True)
    except asyncio.CancelledError:
        note("stopped: what was done until now is whole and stays; say the same again to go on")
        raise
    _report(tally, as_json=as_json)
    if reader.wanted.events:
        note(f"changed {tally.of(Outcome.CHANGED)} events")
    if reader.wanted.dispatch:
        note(f"handed them over {tally.handed} times; `receiver handlers` shows what is due")
    if reader.wanted.quarantine:
        note(f"released {tally.released} entries of the quarantine, with {tally.of(Outcome.STORED)} new events")


async def _go_through(reader: Reader, *, apply: bool) -> Tally:
    tally, wanted = Tally(), reader.wanted
    count = await reprocessing.count_events(reader.connection, wanted.selection) if wanted.events else 0
    entries = await reprocessing.open_entries(reader.connection, wanted.selection) if wanted.quarantine else []
    with progress("reprocess" if apply else "read", count + len(entries)) as show:
        if wanted.events:
            await _read_events(reader, tally, show, apply=apply)
        for number, id_ in enumerate(entries, 1):
            await _read_entry(reader, tally, id_, apply=apply)
            show(count + number)
    return tally


# Events -----------------------------------------------------------------------------------------------------------


async def _read_events(reader: Reader, tally: Tally, show: Callable[[int], None], *, apply: bool) -> None:
    after, seen = None, 0
    while True:
        async with reader.connection.transaction():
            rows = await reprocessing.next_events(reader.connection, reader.wanted.selection, after, lock=apply)
            found = [reread(reader.sources, dict(row), reader.privacy) for row in rows]
            if apply:
                found = await _change(reader, tally, rows, found)
        tally.lines.update(map(_line, rows, found))
        seen += len(rows)
        show(seen)
        if len(rows) < CHUNK:
            return
        after = reprocessing.place_of(rows[-1])


def _line(row: asyncpg.Record, found: Reread) -> Line:
    return Line("events", row["source"], row["provider_type"], row["type"], found.type, found.outcome)


async def _change(
    reader: Reader, tally: Tally, rows: Sequence[asyncpg.Record], found: Sequence[Reread]
) -> list[Reread]:
    """Change what differs; returns what came of each. One that Postgres refuses costs its neighbours nothing."""
    changes = {
        number: Changed(row["id"], row["received_at"], one.values)
        for number, (row, one) in enumerate(zip(rows, found, strict=True))
        if one.values is not None
    }
    refused = set()
    if changes and not await _changed(reader, tally, list(changes.values())):
        refused = {number for number, one in changes.items() if not await _changed(reader, tally, [one])}
    return [Reread(Outcome.UNFIT) if number in refused else one for number, one in enumerate(found)]


async def _changed(reader: Reader, tally: Tally, changes: Sequence[Changed]) -> bool:
    """Whether Postgres took them, all or none."""
    try:
        async with reader.connection.transaction():
            await reprocessing.change_events(reader.connection, changes)
    except BAD_ROWS:
        return False
    if reader.wanted.dispatch:
        side_effects = reader.wanted.side_effects
        tally.handed += await reprocessing.hand_over(reader.connection, changes, side_effects=side_effects)
    return True


# Quarantine -------------------------------------------------------------------------------------------------------


async def _read_entry(reader: Reader, tally: Tally, id_: int, *, apply: bool) -> None:
    entry = await reprocessing.find_entry(reader.connection, id_)
    if entry is None:  # somebody has just closed it
        return
    source = reader.sources.get(entry["source"])
    reader.clock.at = entry["accepted_at"]
    if source is None or source.provider.name != entry["provider"]:
        found = Release(left=Outcome.NO_SOURCE)
    else:
        found = await reread_entry(source, reader.vault, dict(entry))
    known = await reprocessing.stored_ids(reader.connection, [row[_ID] for row in found.rows])
    new = {row[_ID]: row for row in found.rows if row[_ID] not in known}
    if apply and not await _stored(reader.connection, list(new.values()), reader.privacy):
        found, new = Release(left=Outcome.UNFIT), {}
    if found.left is None:
        tally.released += 1
        if apply:
            await reprocessing.release(reader.connection, id_)
    else:
        tally.lines[Line("quarantine", entry["source"], None, entry["kind"], None, found.left)] += 1
    for row in found.rows:
        outcome = Outcome.STORED if new.pop(row[_ID], None) is not None else Outcome.KNOWN
        tally.lines[Line("quarantine", entry["source"], row[_WORD], entry["kind"], str(row[_TYPE]), outcome)] += 1


async def _stored(connection: asyncpg.Connection, rows: Sequence[Row], privacy: Privacy) -> bool:
    """Whether Postgres took them. Ended in the middle, the entry stays open, and the next run finds them known."""
    try:
        for start in range(0, len(rows), MAX_ROWS):
            await write(connection, rows[start : start + MAX_ROWS], (), lock_timeout=_WAIT, privacy=privacy)
    except BAD_ROWS:
        return False
    return True


# ------------------------------------------------------------------------------------------------------------------


def _report(tally: Tally, *, as_json: bool) -> None:
    lines = sorted(tally.lines.items(), key=lambda one: (one[0].part, one[0].source, -one[1]))
    if as_json:
        for line, count in lines:
            json_line(line._asdict() | {"count": count})
        return
    names = (*Line._fields, "count")
    table(names, ((*line, count) for line, count in lines), empty="nothing that is chosen has to be read again")
    for line, _ in lines[:WORDS]:
        if line.outcome is Outcome.SAME and line.becomes == EventType.UNKNOWN:
            note(f"{line.word!r} is still unknown: say what it means in [sources.{line.source}.types]")
