"""The work of imports: look through the file, say what would happen, ask, and do it in chunks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from receiver.cli.asking import go_on
from receiver.cli.failures import CommandError
from receiver.cli.lines import note
from receiver.cli.output import json_line, pairs, show
from receiver.cli.place import who
from receiver.cli.progress import progress
from receiver.contacts.files import Format, Listing, look_through
from receiver.contacts.importing import Import, Rejects, Report, Seen, Task, fingerprint, look_for_doubles
from receiver.store import imports
from receiver.store.queries import write_audit

_WORDS: Final = {
    "replaced": "replaced by a later row",
    "erased": "erased people, skipped",
    "suppressed": "suppressed, and stay so",
    "left_out": "no suppressions, left out",
    "stays_lifted": "lifted since, and stay so",
    "already": "already so",
    "stays_unsubscribed": "unsubscribed, and stay so",
}
DOES: Final = ("new", "changed", "subscribed", "pending", "unsubscribed")  # what changes anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for. `options`: all that makes it another import of the same file. `command`: for audit_log."""

    command: str
    listing: Listing
    options: Mapping[str, Any]
    task: Callable[[datetime], Task[Any]]
    rejects: Path
    dry_run: bool
    yes: bool
    as_json: bool


def looked_through(path: Path, format_: Format | None) -> Listing:
    """The file, with a progress bar. Raises WrongFile, OSError."""
    with progress(f"looking at {path.name}", path.stat().st_size) as done:
        listing = look_through(path, format_=format_, show=done)
    if not listing.sure:
        note(f"{path.name} is not UTF-8: it is read as {listing.encoding}. Look whether its accents come out right")
    return listing


def rejects_of(path: Path, given: Path | None) -> Path:
    return given or path.with_name(f"{path.name}.rejected.csv")


async def run(connection: asyncpg.Connection, wanted: Wanted) -> None:
    """Raises CommandError."""
    now = datetime.now(UTC)
    with progress("reading", wanted.listing.size) as done:
        seen, rows = look_for_doubles(wanted.listing, wanted.task(now), done)
    if wanted.dry_run or not wanted.yes:
        planned = Import(wanted.listing, wanted.task(now), seen, _rejects(wanted), Report())
        await _go(connection, planned, rows, "comparing")
        _show(wanted, planned.report, final=wanted.dry_run)
        if not _does(planned.report):
            note("nothing would change")
            return
        if not go_on(dry_run=wanted.dry_run, yes=wanted.yes):
            return
    await _do(connection, wanted, seen, rows)


def _rejects(wanted: Wanted, *, keep: int = 0) -> Rejects:
    return Rejects(wanted.rejects, wanted.listing, keep=keep)


async def _do(connection: asyncpg.Connection, wanted: Wanted, seen: Seen, rows: int) -> None:
    listing = wanted.listing
    key = fingerprint(listing, wanted.options)
    async with connection.transaction():
        begun = await imports.begin(connection, listing.path.name, key, dict(wanted.options), who())
        await write_audit(connection, who(), wanted.command, f"import {begun.id}: {listing.path.name}")
    report = Report.read(begun.report)
    if begun.rows_done:
        note(f"going on after row {begun.rows_done}, where this import was interrupted")
    rejects = _rejects(wanted, keep=report.line)
    work = Import(listing, wanted.task(begun.began_at), seen, rejects, report, begun.id)
    try:
        await _go(connection, work, rows, "importing")
    except asyncio.CancelledError:
        note(f"stopped after {work.report.rows} of {rows} rows, which are stored; say the same again to go on")
        raise
    except imports.TakenOver:
        raise CommandError(
            "another process runs this import: leave it alone, or say the same once it is gone"
        ) from None
    _show(wanted, work.report, final=True)
    if not _does(work.report):
        note("nothing changed")


async def _go(connection: asyncpg.Connection, work: Import[Any], rows: int, what: str) -> None:
    with work.rejects, progress(what, rows) as done:
        await work.run(connection, done)


def _does(report: Report) -> int:
    all_ = sum(report.topics.values(), report.outcomes)
    return sum(all_[name] for name in DOES)


def _show(wanted: Wanted, report: Report, *, final: bool) -> None:
    """For people always as a table: to look at before they answer."""
    rejected = sum(report.rejected.values())
    if wanted.as_json:
        if final:
            json_line(_as_json(wanted, report))
        return
    lines: dict[str, object] = {"rows": report.rows} | _worded(report.outcomes)
    for reason, count in sorted(report.rejected.items()):
        lines[f"rejected: {reason}"] = count
    for name, counts in sorted(report.topics.items()):
        lines |= {f"{name}: {word}": count for word, count in _worded(counts).items()}
    show(pairs(lines))
    if rejected:
        note(f"the rejected rows ({rejected}) are in {wanted.rejects} with their reasons: mend and import that file")


def _as_json(wanted: Wanted, report: Report) -> dict[str, Any]:
    return {
        "file": str(wanted.listing.path),
        "dry_run": wanted.dry_run,
        "rows": report.rows,
        **{name: report.outcomes[name] for name in ("new", "changed", "unchanged")},
        **report.outcomes,
        "rejected": dict(report.rejected),
        "rejected_file": str(wanted.rejects) if report.rejected else None,
        "topics": {name: dict(counts) for name, counts in report.topics.items()},
    }


def _worded(counts: Counter[str]) -> dict[str, object]:
    return {_WORDS.get(name, name): count for name, count in sorted(counts.items()) if count}
