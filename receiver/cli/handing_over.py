"""A replay under way: its events are put into `retries` as fast as the workers take them, and their fate is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import asyncpg
import typer

from receiver.cli.failures import FAILED, CommandError
from receiver.cli.lines import note
from receiver.cli.output import json_line, table
from receiver.cli.progress import progress
from receiver.store import replays
from receiver.store.connect import AWAY
from receiver.store.replays import AHEAD, CHUNK, MOST_FAILED, Standing

POLL: Final = 0.2  # seconds between two looks at what the workers have done


@dataclass(slots=True)
class _Pace:
    """How many more may be put now.

    What others put counts too: two commands that hand over the same replay share its rate, and either may change it.
    """

    rate: float | None
    seen: int
    begun: float

    def room(self, standing: Standing) -> int:
        room = min(CHUNK, AHEAD - standing.waiting - standing.asked)
        if standing.rate != self.rate:
            self.rate, self.seen, self.begun = standing.rate, standing.seen, time.monotonic()
        if self.rate is not None:
            allowed = 1 + int((time.monotonic() - self.begun) * self.rate)
            room = min(room, allowed - (standing.seen - self.seen))
        return max(room, 0)


async def hand_over(connection: asyncpg.Connection, ids: Sequence[int], *, as_json: bool) -> None:
    """Until everything was tried once. Stopping it at any point leaves whole what was done until then.

    Raises CommandError where a handler fails again and again from now on, whatever has failed before.
    """
    begun = await replays.clock(connection)
    standings = await replays.list_replays(connection, ids)
    paces = {one.id: _Pace(one.rate, one.seen, time.monotonic()) for one in standings}
    told: set[str] = set()
    try:
        with progress("replay", sum(one.events for one in standings)) as show:
            while not all(one.over for one in standings):
                moved = [await _step(connection, one, paces[one.id]) for one in standings]
                standings = await replays.list_replays(connection, ids)
                show(sum(one.settled for one in standings))
                _require_health(standings, await replays.failures_since(connection, ids, begun))
                if not any(moved):
                    await _tell_obstacles(connection, standings, told)
                    await asyncio.sleep(POLL)
    except (asyncio.CancelledError, *AWAY):
        _say_how_to_go_on(standings)
        raise
    print_standings(list(reversed(standings)), as_json=as_json)
    _tell_rest(standings)


async def _step(connection: asyncpg.Connection, one: Standing, pace: _Pace) -> bool:
    """Put some events; returns whether there were any."""
    room = pace.room(one)
    if one.state != "running" or room == 0:
        return False
    return await replays.put_events(connection, one.id, limit=room, seen=one.seen) > 0


def _require_health(standings: Sequence[Standing], failures: Mapping[int, int]) -> None:
    for one in standings:
        if one.state == "running" and failures[one.id] >= MOST_FAILED:
            raise CommandError(
                f"{one.handler} has failed for {failures[one.id]} events, so no more are handed over: look at "
                f"`receiver dead-letters groups`, correct it, then `receiver replay resume {one.id}`; or end it with "
                f"`receiver replay cancel {one.id}`"
            )


async def _tell_obstacles(connection: asyncpg.Connection, standings: Sequence[Standing], told: set[str]) -> None:
    for one in standings:
        if one.over or one.handler in told:
            continue
        why: str | None = await replays.obstacle(connection, one.handler)
        if why is None and one.state == "running" and one.asked >= AHEAD:
            why = f"it has asked to be given {one.asked} events later"
        if why is not None:
            told.add(one.handler)
            note(f"waiting for {one.handler}: {why}")


def _say_how_to_go_on(standings: Sequence[Standing]) -> None:
    for one in standings:
        if one.state == "running":
            note(
                f"stopped replay {one.id} to {one.handler}: {one.put} of {one.events} events were handed over. Go on "
                f"{_pace(one)}with `receiver replay resume {one.id}`, or end it with `receiver replay cancel {one.id}`"
            )


def _pace(one: Standing) -> str:
    return "" if one.rate is None else f"at {one.rate:g} a second "


def _tell_rest(standings: Sequence[Standing]) -> None:
    """What comes after the end. Raises typer.Exit where something has failed, and is not mended yet."""
    for one in standings:
        if one.asked:
            note(f"{one.handler} has asked to be given {one.asked} events later: they come by themselves")
    if any(one.failed or one.unresolved for one in standings):
        note("what failed is tried again by itself; see `receiver dead-letters groups` for what was given up")
        raise typer.Exit(FAILED)


def print_standings(standings: Sequence[Standing], *, as_json: bool) -> None:
    if as_json:
        for one in standings:
            json_line(asdict(one) | {"handled": one.handled})
        return
    names = ("id", "handler", "state", "started_at", "events", "handled", "failed", "asked", "dead", "waiting", "busy")
    table(names, ([getattr(one, name) for name in names] for one in standings), empty="there was no replay yet")
