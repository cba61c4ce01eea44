"""The work of `receiver dead-letters retry` and `discard`: look, say what will come of it, ask, act in chunks."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Final

import asyncpg

from receiver.cli.asking import go_on
from receiver.cli.database import connected
from receiver.cli.dead_letters import print_groups
from receiver.cli.dispatching import find_filters
from receiver.cli.failures import CommandError
from receiver.cli.lines import note, say
from receiver.cli.place import Place, who
from receiver.cli.progress import progress
from receiver.store import control, dead_letters, replays
from receiver.store.connect import AWAY
from receiver.store.dead_letters import Count, DeadLetters, count_dead_letters
from receiver.store.queries import write_audit

_DONE: Final = {"retry": "retried", "discard": "discarded"}
_NOT_SAID: Final = ("ids", "newest", "resolved", "left_out")


def require_scope(which: DeadLetters, *, all_: bool) -> None:
    """Raises CommandError where it is not clear which letters are meant."""
    if which.ids is not None and (all_ or _filters(which)):
        raise CommandError("say either which ones by their numbers, or what they have in common")
    if which.ids is None and not all_ and not _filters(which):
        raise CommandError("say which ones: their numbers, --group, --handler or another filter, or --all")


async def resolve(
    place: Place, which: DeadLetters, reason: str | None, *, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Retry, or with a reason discard. Raises CommandError where that would come to nothing."""
    word = "discard" if reason else "retry"
    async with connected(place.database()) as connection:
        found = await count_dead_letters(connection, which)
        _require_found(which, found)
        if not found.letters:
            note("no dead letters are chosen")
            return
        which = replace(which, newest=found.newest)
        if reason is None:
            await _require_handlers(connection, which)
            which, sure_of_all = await _leave_out(connection, place, which)
            found = await count_dead_letters(connection, which)
        sure = yes or (which.ids is not None and reason is None)  # what was retried can be discarded, not the reverse
        if dry_run or not sure:
            await print_groups(connection, which, 20, as_json=as_json)
            note(f"{found.letters} dead letters are to be {_DONE[word]}")
        later = "" if reason else await _what_comes(connection, which, found, sure_of_all=sure_of_all)
        if not go_on(dry_run=dry_run, yes=sure):
            return
        done = await _in_chunks(connection, which, found.letters, reason)
    what = f"dead letter {_numbers(which)}" if which.ids and not which.left_out else f"{done} dead letters"
    say(f"{_DONE[word]} {what}{later}")


# Looking ----------------------------------------------------------------------------------------------------------


def _require_found(which: DeadLetters, found: Count) -> None:
    if which.ids is not None and found.letters < len(which.ids):
        wrong = "not all of these are open" if found.letters else f"there is no open dead letter {_numbers(which)}"
        raise CommandError(f"{wrong}; `receiver dead-letters list` shows those there are")
    if which.group is not None and not found.letters:
        raise CommandError(
            f"no open dead letter of group {which.group} is chosen; `receiver dead-letters groups` shows what there is"
        )


async def _require_handlers(connection: asyncpg.Connection, which: DeadLetters) -> None:
    """Raises CommandError where a handler is gone, so that nobody would ever take its letters."""
    for handler in await dead_letters.handlers_of(connection, which):
        if not await control.exists(connection, handler):
            raise CommandError(
                f"nobody would take the events of {handler}: it was removed, or has never run on this database. Start "
                f"a worker that has it and say this again, choose others (--handler), or close its letters with "
                f"`receiver dead-letters discard --handler {handler} --reason ...`"
            )


async def _leave_out(connection: asyncpg.Connection, place: Place, which: DeadLetters) -> tuple[DeadLetters, bool]:
    """Without the letters that their handler's filter does not take any more, and whether every filter is known.

    Raises CommandError where none is left.
    """
    handlers = await dead_letters.handlers_of(connection, which)
    filters, unknown = find_filters(place.settings, handlers)
    left_out: list[int] = []
    for handler, accepts in filters.items():
        refused = await dead_letters.refused(connection, replace(which, handler=handler), accepts)
        if refused:
            note(
                f"{len(refused)} letters of {handler} are left out and stay open: its filter does not take such events "
                f"any more (`receiver dead-letters discard {refused[0]} --reason ...` closes one)"
            )
        left_out += refused
    which = replace(which, left_out=left_out or None)
    if left_out and not (await count_dead_letters(connection, which)).letters:
        raise CommandError("there is nothing to retry: no handler would take these events")
    return which, not unknown


async def _what_comes(connection: asyncpg.Connection, which: DeadLetters, found: Count, *, sure_of_all: bool) -> str:
    """Says before what the retry will be; returns what there is to say after it."""
    if found.replaying:
        note(
            f"{found.replaying} of them came in a replay without side effects, and come so again: ctx.replaying is "
            "set, no messages are queued"
        )
    waits = False
    for handler in await dead_letters.handlers_of(connection, which):
        if why := await replays.obstacle(connection, handler):
            waits = True
            note(f"{handler} gets nothing at present: {why}. What is retried waits for that: see `receiver handlers`")
    if waits:
        return ""
    promise = "; the handler gets the event within seconds"
    return promise if sure_of_all else f"{promise}, and what its filter does not take any more is an open letter again"


def _filters(which: DeadLetters) -> str:
    """What the letters have in common, in words for the audit log; empty: nothing was said."""
    named = {name: value for name, value in asdict(which).items() if name not in _NOT_SAID}
    return " ".join(f"{name}={value}" for name, value in named.items() if value is not None)


def _numbers(which: DeadLetters) -> str:
    left_out = which.left_out or ()
    return ", ".join(str(id_) for id_ in which.ids or () if id_ not in left_out)


# Doing ------------------------------------------------------------------------------------------------------------


async def _in_chunks(connection: asyncpg.Connection, which: DeadLetters, count: int, reason: str | None) -> int:
    """Each chunk with its row in audit_log is one transaction: an end between two leaves nothing half done."""
    done = 0
    with progress("dead letters", count) as show_progress:
        try:
            while some := await _chunk(connection, which, reason):
                done += some
                show_progress(done)
        except (asyncio.CancelledError, *AWAY) as error:
            # With the connection, the answer to a commit that took place may have been lost.
            least = "" if isinstance(error, asyncio.CancelledError) else "at least "
            note(f"stopped after {least}{done} of {count}; say it again for the rest")
            raise
    return done


async def _chunk(connection: asyncpg.Connection, which: DeadLetters, reason: str | None) -> int:
    async with connection.transaction():
        if reason is None:
            done = await dead_letters.retry(connection, which)
        else:
            done = await dead_letters.discard(connection, which, reason=reason)
        if done:
            some = f"dead letter {_numbers(which)}" if which.ids else f"{done} dead letters: {_filters(which) or 'all'}"
            await write_audit(connection, who(), "retry" if reason is None else "discard", some)
    return done
