"""`receiver retention`: how long what is stored is kept, what would go now, and what the disk will need."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import typer

from receiver.cli import options
from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import asyncpg

    from receiver.cli.place import Place
    from receiver.store.forecast import Part
    from receiver.store.needs import Warned
    from receiver.store.steps import Done, Progress

group = options.group("How long what is stored is kept: `list` (rules, sizes, forecast) and `run`.")


@group.command("list")
def list_(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show for each part how long it is kept, its size, what would go now, and what the disk will need.

    Example: receiver retention
    """
    from receiver.cli.place import find_place, run_async

    run_async(_list(find_place(context), as_json=as_json))


@group.command()
def run(
    context: typer.Context,
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove what is older than the settings say, now. Running services do so by themselves once a day.

    Ctrl-C leaves everything whole; the next run goes on there.

    Example: receiver retention run --dry-run
    """
    from receiver.cli.place import find_place, run_async

    run_async(_run(find_place(context), dry_run=dry_run, yes=yes, as_json=as_json))


async def _list(place: Place, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.lines import note, say
    from receiver.cli.output import json_line
    from receiver.store.forecast import parts
    from receiver.store.needs import warnings

    rules = place.settings.retention
    async with connected(place.database()) as connection:
        found, warned = await parts(connection, rules), await warnings(connection, rules)
    if as_json:
        for part in found:
            json_line(_as_json(part))
        return
    _table(found)
    say("")
    _forecast(found)
    for one in warned:
        note(_line(one))


def _line(one: Warned) -> str:
    return f"{one.severity}: {one.text}"


def _table(found: Sequence[Part]) -> None:
    from receiver.cli.lines import note
    from receiver.cli.output import table
    from receiver.retention_settings import keep_text

    rows = [
        (
            one.part,
            *(("", "") if one.rows is None else (keep_text(one.keep), one.rows)),
            *(_size(one.bytes), one.going_rows, _size(one.going_bytes)),
        )
        for one in found
    ]
    total = ("all", "", "", _size(sum(one.bytes for one in found)), "", _size(sum(one.going_bytes for one in found)))
    table(("part", "kept", "rows", "size", "would go", "frees"), [*rows, total])
    for name, need in (held for one in found for held in one.held):
        note(f"{name} is kept for now: handler {need}")


def _forecast(found: Sequence[Part]) -> None:
    """As the last four weeks went on; the rest, as it has gone on since the beginning."""
    from receiver.cli.output import table

    rows = [
        (one.part, _size(one.daily_bytes), *(_size(one.after(days)) for days in (30, 90)), _steady(one.steady))
        for one in found
    ]
    bounded = [one.steady for one in found]
    total = (
        "all",
        _size(sum(one.daily_bytes for one in found)),
        *(_size(sum(one.after(days) for one in found)) for days in (30, 90)),
        _steady(None if None in bounded else sum(one for one in bounded if one is not None)),
    )
    table(("growth", "a day", "in 30 days", "in 90 days", "in the end"), [*rows, total])


def _steady(bytes_: int | None) -> str:
    return "grows" if bytes_ is None else _size(bytes_)


def _size(bytes_: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if bytes_ < 1024:
            return f"{bytes_:.0f} {unit}" if unit in ("B", "kB") else f"{bytes_:.1f} {unit}"
        bytes_ /= 1024
    return f"{bytes_:.1f} TB"


def _as_json(part: Part) -> dict[str, Any]:
    from dataclasses import asdict

    values = asdict(part)
    values["keep_days"] = part.keep.days if part.keep else None
    values["held"] = [{"partition": name, "handler": need.who, "why": need.why} for name, need in part.held]
    values |= {f"bytes_in_{days}_days": part.after(days) for days in (30, 90)} | {"bytes_in_the_end": part.steady}
    return {name: value for name, value in values.items() if name not in ("keep", "slack")}


async def _run(place: Place, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    from receiver.cli.asking import go_on
    from receiver.cli.database import connected
    from receiver.cli.lines import note
    from receiver.cli.output import json_line
    from receiver.store.forecast import parts
    from receiver.store.server_clock import why_wait

    async with connected(place.database()) as connection:
        found = await parts(connection, place.settings.retention, sure=True)
        if dry_run and as_json:
            for part in found:
                json_line(_as_json(part))
            return
        if not as_json:
            _table(found)
        something = any(one.going_rows for one in found)
        if something:
            note(f"to be removed for good: {_going(found)}")
            if why := await why_wait(connection):
                note(why)
        if not go_on(dry_run=dry_run, yes=yes or not something):
            return
        await _do(connection, place, as_json=as_json)


def _going(found: Sequence[Part]) -> str:
    raw = sum(one.going_rows for one in found if one.part == "raw")
    rows = sum(one.going_rows for one in found) - raw
    return f"{rows} rows and the raw of {raw} events, about {_size(sum(one.going_bytes for one in found))}"


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    """A progress bar for each table that takes long, one after the other."""
    from receiver.cli.progress import progress

    with ExitStack() as stack:
        bars: dict[tuple[str, str], Callable[[int], None]] = {}

        def show(step: Progress) -> None:
            key = (step.part, step.relation)
            if key not in bars:
                stack.close()
                bars[key] = stack.enter_context(progress(f"{step.part}: {step.relation}", step.total))
            bars[key](step.done)

        yield show


async def _do(connection: asyncpg.Connection, place: Place, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.place import who
    from receiver.store import retention, tasks
    from receiver.store.queries import write_audit
    from receiver.store.steps import Progress

    freed = 0
    with _bars() as show:

        async def report(step: Done | Progress) -> None:
            nonlocal freed
            if isinstance(step, Progress):
                show(step)
                return
            freed += step.bytes
            _say_done(step, as_json=as_json)
            if not step.held:
                await write_audit(connection, who(), "retention", f"{step.part} of {step.relation}")

        rules = place.settings.retention
        done = await retention.run_alone(connection, lambda: connected(place.database()), rules, report)
    if not done:
        owner = await tasks.holder(connection, retention.TASK)
        raise CommandError(f"retention runs already, in {owner or 'another process'}: try again later")
    if not as_json:
        from receiver.cli.lines import say

        say(f"done; {_size(freed)} of partitions freed")


def _say_done(step: Done, *, as_json: bool) -> None:
    from receiver.cli.lines import note, say
    from receiver.cli.output import json_line

    if as_json:
        values = {"part": step.part, "relation": step.relation, "rows": step.rows, "bytes": step.bytes}
        json_line(values | {"held": [{"handler": need.who, "why": need.why} for need in step.held]})
    elif step.held:
        for need in step.held:
            note(f"{step.part}: {step.relation} is kept for now: handler {need}")
    else:
        say(f"{step.part}: {step.rows} rows of {step.relation} removed")
