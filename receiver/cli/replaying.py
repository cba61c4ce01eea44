"""The work of `receiver replay`: look, ask, begin. What follows is in `handing_over`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from receiver.cli.asking import go_on
from receiver.cli.controlling import in_the_way
from receiver.cli.database import connected
from receiver.cli.dispatching import find_filters
from receiver.cli.failures import CommandError
from receiver.cli.handing_over import hand_over, print_standings
from receiver.cli.lines import note, say
from receiver.cli.output import json_line, table
from receiver.cli.place import Place, who
from receiver.store import replays
from receiver.store.queries import write_audit
from receiver.store.replays import Accepts, Obstacle, OfType, Selection

ALL: Final = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for. `rate`: events a second for each handler; None: as fast as the workers are."""

    handlers: Sequence[str]
    selection: Selection
    side_effects: bool
    rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one handler would get. `filter_known`: else `accepts` says nothing, and the worker applies the filter."""

    handler: str
    accepts: Accepts
    filter_known: bool
    types: Sequence[OfType]
    sample: Sequence[Mapping[str, Any]]
    obstacle: Obstacle | None

    @property
    def events(self) -> int:
        return sum(one.events for one in self.types)

    @property
    def unread(self) -> int:
        return sum(one.unread for one in self.types)


async def replay(place: Place, wanted: Wanted, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Raises CommandError where it is not clear which events and handlers are meant, or a handler does not run."""
    if wanted.selection.everything:
        raise CommandError("say which events: --since, --type, --event or another of the options in --help")
    if not wanted.handlers:
        raise CommandError("say to which handler: --handler NAME, or --handler all")
    async with connected(place.database()) as connection:
        names = await _names(connection, wanted)
        accepts = _accepts(place, names)
        plans = [await _plan(connection, name, wanted.selection, accepts.get(name)) for name in names]
        if dry_run or not as_json:
            _print_plans(plans, as_json=as_json)
        plans = [plan for plan in plans if plan.events]
        if not plans:
            note(f"there is nothing to hand over; chosen: {_chosen(wanted.selection)}")
            return
        note(_announcement(plans, wanted))
        if not dry_run:
            _require_running(plans)
        if not go_on(dry_run=dry_run, yes=yes):
            return
        ids = await _start(connection, plans, wanted)
        await hand_over(connection, ids, as_json=as_json)


async def resume(place: Place, ids: Sequence[int] | None, rate: float | None, *, as_json: bool) -> None:
    """Go on with these replays, or with all that are unfinished. `rate`: another one from now on; None: as before."""
    async with connected(place.database()) as connection:
        found = await replays.list_replays(connection, ids, ended=ids is not None)
        if missing := set(ids or ()) - {one.id for one in found}:
            raise CommandError(f"there is no replay {min(missing)}")
        if not found:
            note("no replay is unfinished")
            return
        going_on = sorted(one.id for one in found)
        if rate is not None:
            await replays.set_rate(connection, going_on, rate)
        await hand_over(connection, going_on, as_json=as_json)


async def cancel(place: Place, id_: int, *, dry_run: bool, yes: bool) -> None:
    """End it and take back what waits."""
    async with connected(place.database()) as connection:
        found = await replays.list_replays(connection, [id_])
        if not found:
            raise CommandError(f"there is no replay {id_}")
        one = found[0]
        if one.ended:
            raise CommandError(f"replay {id_} has ended ({one.state}): nothing of it waits")
        say(
            f"replay {id_} is to end with {one.handled:,} of {one.events:,} events handled: "
            f"{one.left:,} that wait for {one.handler} are to be taken back, and no more handed over"
        )
        if not go_on(dry_run=dry_run, yes=yes):
            return
        async with connection.transaction():
            taken = await replays.cancel_replay(connection, id_)
            if taken is None:
                raise CommandError(f"replay {id_} has ended meanwhile: nothing of it waits")
            await write_audit(connection, who(), "cancel", f"replay {id_}: {one.handler}, {taken} events taken back")
    say(f"cancelled replay {id_}: {taken:,} events were taken back")


async def show_replays(place: Place, limit: int, *, as_json: bool) -> None:
    async with connected(place.database()) as connection:
        found = await replays.list_replays(connection, limit=limit)
    print_standings(found, as_json=as_json)


# Looking ----------------------------------------------------------------------------------------------------------


async def _names(connection: asyncpg.Connection, wanted: Wanted) -> list[str]:
    known = await replays.known_handlers(connection)
    for name in wanted.handlers:
        if name != ALL and name not in known:
            raise CommandError(f"no handler {name} has run on this database; there are: {', '.join(known) or 'none'}")
    if ALL not in wanted.handlers:
        return list(dict.fromkeys(wanted.handlers))
    removed = await replays.removed_handlers(connection) - set(wanted.handlers)
    for name in sorted(removed & set(known)):
        note(f"{name} is left out, as no running worker has it: `receiver handlers remove {name}` forgets it")
    return [name for name in known if name not in removed]


async def _plan(connection: asyncpg.Connection, name: str, selection: Selection, own: Accepts | None) -> Plan:
    accepts = own or Accepts()
    return Plan(
        handler=name,
        filter_known=own is not None,
        accepts=accepts,
        types=await replays.count_events(connection, name, selection, accepts),
        sample=[dict(row) for row in await replays.sample_events(connection, name, selection, accepts)],
        obstacle=await replays.obstacle(connection, name),
    )


def _accepts(place: Place, names: Sequence[str]) -> dict[str, Accepts]:
    """The handlers' own filters; without one everything is put, and the worker leaves out the rest."""
    found, unknown = find_filters(place.settings, names)
    if unknown:
        note(
            f"{unknown}: its own filter is not known, so all chosen events are counted and put; the worker leaves out "
            "what the filter does not let through"
        )
    return found


def _print_plans(plans: Sequence[Plan], *, as_json: bool) -> None:
    if as_json:
        for plan in plans:
            types = [asdict(one) for one in plan.types]
            json_line(asdict(plan) | {"types": types, "events": plan.events, "unread": plan.unread})
        return
    rows = [(plan.handler, one.type, one.events, one.first, one.last) for plan in plans for one in plan.types]
    table(("handler", "type", "events", "first", "last"), rows, empty="no stored event is chosen")
    for sample in {row["id"]: row for plan in plans for row in plan.sample}.values():
        say(f"such as {sample['id']}  {sample['type']}  {sample['source']}  {sample['recipient'] or '-'}")
    for plan in plans:
        if plan.unread:
            note(f"{plan.handler} has not read {plan.unread} of the chosen events yet: they come by themselves")


def _require_running(plans: Sequence[Plan]) -> None:
    """Raises CommandError with everything that is in the way, and what to do about it."""
    held = [
        f"nothing would be handed to {plan.handler}: {in_the_way(plan.obstacle, plan.handler)}"
        for plan in plans
        if plan.obstacle and plan.obstacle is not Obstacle.RESTING  # a rest is over soon: what is put waits for it
    ]
    if not held:
        return
    others = " ".join(f"--handler {plan.handler}" for plan in plans if not plan.obstacle)
    raise CommandError("; ".join(held) + (f". Or leave it out: {others}" if others else ""))


def _announcement(plans: Sequence[Plan], wanted: Wanted) -> str:
    to = ", ".join(f"{plan.events} events to {plan.handler}" for plan in plans)
    effects = "WITH" if wanted.side_effects else "without"
    return f"to be handed over again {effects} messages and requests: {to}; chosen: {_chosen(wanted.selection)}"


def _chosen(selection: Selection) -> str:
    """All that was asked for, in words: what was meant and is missing here was not understood."""
    return ", ".join(f"{name} {' or '.join(given)}" for name, given in _parts(selection) if given)


def _parts(selection: Selection) -> Iterator[tuple[str, Sequence[str]]]:
    yield "type", selection.types or ()
    yield "source", selection.sources or ()
    yield "provider", selection.providers or ()
    yield "recipient", () if selection.recipient is None else (selection.recipient,)
    yield "id", [str(id_) for id_ in selection.events or ()]
    yield "received since", () if selection.since is None else (_time(selection.since),)
    yield "received before", () if selection.until is None else (_time(selection.until),)


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


# Doing ------------------------------------------------------------------------------------------------------------


async def _start(connection: asyncpg.Connection, plans: Sequence[Plan], wanted: Wanted) -> list[int]:
    ids = []
    async with connection.transaction():
        for plan in plans:
            id_ = await replays.start_replay(
                *(connection, plan.handler, wanted.selection, plan.accepts),
                side_effects=wanted.side_effects,
                events=plan.events,
                by=who(),
                rate=wanted.rate,
            )
            with_effects = " with side effects" if wanted.side_effects else ""
            await write_audit(connection, who(), "replay", f"replay {id_}: {plan.handler}, {plan.events}{with_effects}")
            ids.append(id_)
    return ids
