"""What the commands of `receiver handlers` do: announce it, ask, do it, and leave a row in the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import asyncpg

from receiver.cli.asking import go_on
from receiver.cli.database import connected
from receiver.cli.failures import CommandError
from receiver.cli.lines import note, say
from receiver.cli.output import duration, json_line, table
from receiver.cli.place import Place, who
from receiver.plugins.handlers import THE_BEGINNING
from receiver.store import control, lanes, replays
from receiver.store.lanes import Kind
from receiver.store.queries import write_audit
from receiver.store.replays import Obstacle
from receiver.store.standing import Standing, standings

T = TypeVar("T")

_TRIES: Final = 5  # when a worker's acknowledgement and ours have locked the same cursors in another order
_LOOK_EVERY: Final = 0.1

# Plans for statements over the log are made for walking its index, whatever the statistics say.
_PLANS: Final = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off"}


@dataclass(frozen=True, slots=True)
class Ask:
    """Old events for a handler. `rate`: events a second."""

    kind: Kind
    handler: str
    since: datetime
    rate: float | None
    replaying: bool

    @property
    def from_when(self) -> str:
        return "the beginning" if self.since == THE_BEGINNING else _time(self.since)


# list -------------------------------------------------------------------------------------------------------------


async def show_handlers(place: Place, *, as_json: bool) -> None:
    async with connected(place.database()) as connection:
        found = await standings(connection)
    if as_json:
        for one in found:
            json_line(asdict(one))
        return
    head = ("handler", "state", "unread", "behind", "events/min", "failing", "retries", "dead letters", "runs in")
    rows = (
        (
            *(one.handler, _state(one), _unread(one), timedelta(seconds=one.lag_seconds), f"{one.rate:,.0f}"),
            *(one.failing, _retries(one), one.dead_letters, one.owners or None),
        )
        for one in found
    )
    table(head, rows, empty="no handler has run on this database yet: start `receiver serve` or `receiver work`")


def _unread(one: Standing) -> str:
    return f"{one.lag_events:,}" + ("+" if one.lag_at_least else "")


def _retries(one: Standing) -> str:
    return f"{one.retries:,}" + (f" ({one.parked:,} parked)" if one.parked else "")


def _state(one: Standing) -> str:
    words = {
        "paused": f"paused by {one.paused_by or 'unknown'}" + (f": {one.paused_because}" if one.paused_because else ""),
        "broken": f"breaker open since {_time(one.breaker_since)}: {one.breaker_error}",
        "resting": f"rests until {_time(one.resting_until)}"
        + (f": {one.resting_because}" if one.resting_because else ""),
        "idle": "no worker runs",
        "removed": "removed: no running worker has it",
        "running": "running",
    }[one.state]
    return words if one.lane is None else f"{words}; {one.lane} {_progress(one)}"


def _progress(one: Standing) -> str:
    done = one.lane_done or 0
    if one.lane_total is None:
        return f"{done:,} done"
    return f"{100 if done >= one.lane_total else 100 * done // one.lane_total} % of {one.lane_total:,}"


def _time(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if at else "unknown"


# pause, resume ----------------------------------------------------------------------------------------------------


async def pause_handler(place: Place, name: str, reason: str, wait: float, *, dry_run: bool) -> None:
    async with _known(place, name) as connection:
        waiting = await control.count_unread(connection, name)
        say(f"{name} is to stand still, with {waiting:,} events unread")
        if not go_on(dry_run=dry_run, yes=True):
            return
        async with connection.transaction():
            if changed := await control.pause(connection, name, by=who(), reason=reason):
                await write_audit(connection, who(), "pause", f"handler {name}" + (f": {reason}" if reason else ""))
        if not changed:
            note(f"{name} was paused before")
        await _bar(connection, name, wait)
        say(f"{name} is paused: `receiver handlers resume {name}` lets it go on")


async def _bar(connection: asyncpg.Connection, name: str, wait: float) -> None:
    """Workers let go after the batch in hand; what they still hold after `wait` seconds is taken away."""
    loop = asyncio.get_running_loop()
    deadline, said = loop.time() + wait, False
    while await _again(lambda: control.bar(connection, name, force=loop.time() >= deadline)):
        if not said and loop.time() > deadline - wait + 2:
            said = True
            note(f"waiting for batches in hand, at most {wait:g} s")
        await asyncio.sleep(_LOOK_EVERY)


async def resume_handler(place: Place, name: str, *, dry_run: bool) -> None:
    async with _known(place, name) as connection:
        waiting = await control.count_unread(connection, name)
        say(f"{name} is to go on with {waiting:,} unread events")
        if not go_on(dry_run=dry_run, yes=True):
            return

        async def change() -> bool:
            async with connection.transaction():
                if changed := await control.resume(connection, name, by=who()):
                    await write_audit(connection, who(), "resume", f"handler {name}")
                return changed

        say(f"{name} goes on" if await _again(change) else f"{name} was not paused")


# rewind, backfill, cancel -----------------------------------------------------------------------------------------


async def give_again(place: Place, ask: Ask, *, dry_run: bool, yes: bool) -> None:
    async with _known(place, ask.handler) as connection:
        if ask.since >= datetime.now(UTC):
            raise CommandError("--since lies in the future: say a time that has passed")
        count = await _open(connection, ask, None)
        say(f"{ask.handler} is to be given {count:,} events received since {ask.from_when}, {_how(ask)}")
        if obstacle := await replays.obstacle(connection, ask.handler):
            note(f"{ask.handler} gets nothing at present: {in_the_way(obstacle, ask.handler)}. They wait for that")
        if count == 0 or not go_on(dry_run=dry_run, yes=yes):
            return
        await _open(connection, ask, count)
        begun = "is there, and waits" if obstacle else "begun"
        say(f"{ask.kind} {begun}: `receiver handlers` shows its progress, `receiver handlers cancel` ends it")


_REMEDIES: Final = {
    Obstacle.PAUSED: "`receiver handlers resume {}` lets it go on",
    Obstacle.BROKEN: "`receiver handlers` shows the error; it goes on by itself once that is mended",
    Obstacle.RESTING: "`receiver handlers` shows until when and why; it goes on by itself",
    Obstacle.IDLE: "start a worker that has it",
}


def in_the_way(obstacle: Obstacle, handler: str) -> str:
    """Why nothing is handed to the handler, and what helps."""
    return f"{obstacle} ({_REMEDIES[obstacle].format(handler)})"


def _how(ask: Ask) -> str:
    effects = "with ctx.replaying set" if ask.replaying else "with all side effects"
    return effects + (f", at most {ask.rate:g} a second" if ask.rate else "")


async def _open(connection: asyncpg.Connection, ask: Ask, total: int | None) -> int:
    """Open the lane and return its number of events; without a total it is only tried out, and undone."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await lanes.open_lane(
            *(connection, ask.handler, ask.kind, ask.since), replaying=ask.replaying, rate=ask.rate, by=who()
        )
        if total is None:
            return await lanes.count_lane(connection, ask.handler, ask.since)
        await lanes.set_total(connection, ask.handler, total)
        await write_audit(connection, who(), ask.kind, f"handler {ask.handler} since {ask.from_when}, {_how(ask)}")
    except asyncpg.UniqueViolationError as error:
        raise CommandError(
            f"{ask.handler} is being given old events already: wait for the end (`receiver handlers`), "
            f"or end it with `receiver handlers cancel {ask.handler}`"
        ) from error
    except lanes.NoBeginning as error:
        raise CommandError(
            f"where {ask.handler} began to read was not kept: it is older than this release. "
            f"Use `receiver handlers rewind {ask.handler} --since ...`"
        ) from error
    else:
        await transaction.commit()
        return total
    finally:
        if connection.is_in_transaction():
            await transaction.rollback()


async def cancel_lane(place: Place, name: str, *, dry_run: bool, yes: bool) -> None:
    async with _known(place, name) as connection:
        lane = (await lanes.lanes_of(connection, [name])).get(name)
        if lane is None:
            raise CommandError(f"{name} is given no old events at present")
        left = await lanes.count_lane(connection, name, lane.since)
        say(f"the {lane.kind} of {name} is to end with {left:,} events left out")
        if not go_on(dry_run=dry_run, yes=yes):
            return

        async def change() -> None:
            async with connection.transaction():
                await lanes.close_lane(connection, name)
                await write_audit(connection, who(), "cancel", f"{lane.kind} of handler {name}, {left} events left")

        await _again(change)
        say(f"{lane.kind} ended")


# skip-to, remove --------------------------------------------------------------------------------------------------


async def skip_events(place: Place, name: str, to: datetime | None, *, dry_run: bool, yes: bool) -> None:
    async with _known(place, name) as connection:
        if to is not None and to >= datetime.now(UTC):
            raise CommandError("that time lies in the future: say `now`, or a time that has passed")
        until = "now" if to is None else _time(to)
        count = await control.count_unread(connection, name, to)
        say(f"{name} is never to see {count:,} unread events received before {until}")
        if count == 0 or not go_on(dry_run=dry_run, yes=yes):
            return

        async def change() -> None:
            async with connection.transaction():
                await control.skip(connection, name, to)
                await write_audit(connection, who(), "skip", f"handler {name} to {until}, {count} events")

        await _again(change)
        say(f"{name} goes on from {until}")


async def remove_handler(place: Place, name: str, *, dead_letters: bool, dry_run: bool, yes: bool) -> None:
    async with _known(place, name) as connection:
        running = await control.workers_with(connection, name)
        if running:
            raise CommandError(f"{name} is run by {', '.join(running)}: take it out of the code there, and restart")
        (one,) = [found for found in await standings(connection) if found.handler == name]
        unread = await control.count_unread(connection, name)
        behind = f"{unread:,} unread, last moved {_ago(await control.moved_at(connection, name))} ago"
        say(f"{name} is to be forgotten: its {one.shards} cursors ({behind}) and its {one.retries:,} retries")
        letters = "are to be discarded" if dead_letters else "stay (--dead-letters discards them)"
        if one.dead_letters:
            say(f"its {one.dead_letters:,} dead letters {letters}")
        if not go_on(dry_run=dry_run, yes=yes):
            return
        async with connection.transaction():
            await control.remove(connection, name, dead_letters=dead_letters)
            await write_audit(connection, who(), "remove", f"handler {name}")
        say(f"{name} is forgotten: should it come back, it begins anew")


def _ago(at: datetime) -> str:
    return duration(datetime.now(UTC) - at)


# ------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _known(place: Place, name: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection, when the handler is known in the database."""
    async with connected(place.database(), settings=_PLANS) as connection:
        if "/" in name or not await control.exists(connection, name):
            known = ", ".join(one.handler for one in await standings(connection)) or "none"
            raise CommandError(f"no handler {name!r} has run on this database; there are: {known}")
        yield connection


async def _again(change: Callable[[], Awaitable[T]]) -> T:
    """Run a change, again where it met a worker's in a deadlock."""
    for _ in range(_TRIES - 1):
        try:
            return await change()
        except asyncpg.DeadlockDetectedError:
            await asyncio.sleep(_LOOK_EVERY)
    return await change()
