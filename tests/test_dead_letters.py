"""What a handler gave up on: every attempt is kept, people look at it, retry it or close it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from receiver import Context, Event, EventType, GiveUp, Handler, Outcome, RetryAfter, handler
from receiver.store.dead_letters import CHUNK, DeadLetters, list_dead_letters, retry, show_dead_letter
from receiver.store.failures import MOST_ATTEMPTS
from tests.cli import Receiver
from tests.log_events import store
from tests.workers import prepared, running, value

CUT_AT_THE_SECOND = """
CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN IF (SELECT count(*) FROM audit_log) > 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
     RETURN NULL; END';
CREATE TRIGGER cut AFTER INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION cut();
"""


async def soon(connection: asyncpg.Connection) -> None:
    """Make everything due that waits for a later attempt."""
    await connection.execute("UPDATE retries SET next_at = now()")


async def test_every_attempt_is_kept(database: str, sql: asyncpg.Connection) -> None:
    """each failed attempt is kept with its time, error, scrubbed traceback and worker, also over a retry by hand"""

    @handler(max_attempts=3)
    async def poison(event: Event, ctx: Context) -> None:
        raise LookupError(f"number {ctx.attempt} knows nothing of {event.recipient}")

    await prepared(sql, [poison])
    await store(sql, recipient="ann.secret@example.com")
    async with running(database, poison, name="here:1"):
        for attempt in (1, 2):
            await value(sql, "SELECT count(*) FROM attempts WHERE dead_letter_id IS NULL", attempt)
            await soon(sql)
        await value(sql, "SELECT count(*) FROM dead_letters", 1)
        (listed,) = await list_dead_letters(sql)
        letter = await show_dead_letter(sql, listed.id)
        assert letter is not None
        assert [one.attempt for one in letter.history] == [1, 2, 3]
        assert [one.error for one in letter.history] == [f"number {n} knows nothing of <address>" for n in (1, 2, 3)]
        assert {(one.error_type, one.worker) for one in letter.history} == {("LookupError", "here:1")}
        assert all("in poison" in (one.traceback or "") for one in letter.history)
        assert not any("ann.secret" in (one.traceback or "") for one in letter.history)
        assert [one.at for one in letter.history] == sorted(one.at for one in letter.history)
        assert await retry(sql, DeadLetters(ids=[letter.id]))
        for attempt in (4, 5):
            await value(sql, "SELECT count(*) FROM attempts", attempt)
            await soon(sql)
        await value(sql, "SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL", 1)
    again = await show_dead_letter(sql, (await list_dead_letters(sql))[0].id)
    assert again is not None
    assert [one.attempt for one in again.history] == [1, 2, 3, 1, 2, 3]
    assert {row[0] for row in await sql.fetch("SELECT dead_letter_id FROM attempts")} == {again.id}
    await sql.execute("DELETE FROM dead_letters")
    assert await sql.fetchval("SELECT count(*) FROM attempts") == 0


async def test_attempts_go_when_the_event_is_handled(database: str, sql: asyncpg.Connection) -> None:
    """once an event is handled after all, nothing is left of the attempts before"""

    @handler()
    async def second_time(_event: Event, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise RuntimeError("not yet")

    await prepared(sql, [second_time])
    await store(sql, 2)
    async with running(database, second_time):
        await value(sql, "SELECT count(*) FROM attempts", 2)
        await soon(sql)
        await value(sql, "SELECT count(*) FROM retries", 0)
    assert await sql.fetchval("SELECT count(*) FROM attempts") == 0


async def test_attempts_are_bounded(database: str, sql: asyncpg.Connection) -> None:
    """a handler that asks for later again and again keeps the latest attempts of an event and no more"""
    calls = 0

    @handler()
    async def later(_event: Event, _ctx: Context) -> Outcome:
        nonlocal calls
        calls += 1
        return RetryAfter(0 if calls < MOST_ATTEMPTS + 10 else 3600, f"call {calls}")

    await prepared(sql, [later])
    await store(sql)
    async with running(database, later):
        await value(sql, "SELECT next_at > now() + interval '50 min' FROM retries", expected=True)
    kept = [row[0] for row in await sql.fetch("SELECT error FROM attempts ORDER BY id")]
    assert kept == [f"call {n}" for n in range(calls - MOST_ATTEMPTS + 1, calls + 1)]


# What people do ---------------------------------------------------------------------------------------------------


def gives_up(name: str, seen: list[UUID] | None = None) -> Handler:
    """A handler whose errors are of two kinds, with numbers in them; with `seen`, one that works."""

    @handler(name=name, max_attempts=1)
    async def refuse(event: Event, _ctx: Context) -> Outcome | None:
        if seen is not None:
            seen.append(event.id)
            return None
        if event.type is EventType.CLICKED:
            return GiveUp(f"order {event.subject} of customer {event.id} is closed")
        raise LookupError(f"row {event.subject} at 0x7f3a{event.subject}")

    return refuse


async def letters(database: str, sql: asyncpg.Connection) -> None:
    """Letters of two handlers: of each three clicks and two bounces."""
    handlers = (gives_up("crm"), gives_up("shop"))
    await prepared(sql, handlers)
    await store(sql, 3, type="clicked", subject=lambda n: str(10 + n), source="one")
    await store(sql, 2, type="bounced", subject=lambda n: str(2000 + n), source="two")
    async with running(database, *handlers):
        await value(sql, "SELECT count(*) FROM dead_letters", 10)


async def test_groups(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """letters that differ in numbers and ids alone are one group, with its count, times and the newest as example"""
    await letters(database, sql)
    rows = (await receiver("dead-letters", "groups", "--json")).rows
    assert [(row["letters"], row["error_type"], row["error"]) for row in rows] == [
        (3, "GiveUp", "order # of customer # is closed"),
        (3, "GiveUp", "order # of customer # is closed"),
        (2, "LookupError", "row # at #"),
        (2, "LookupError", "row # at #"),
    ]
    assert {row["handler"] for row in rows} == {"crm", "shop"}
    assert len({row["group"] for row in rows}) == 4
    assert all(row["first"] <= row["last"] for row in rows)
    for row in rows:
        listed = (await receiver("dead-letters", "list", "--json", "--group", row["group"])).rows
        assert len(listed) == row["letters"]
        assert {one["handler"] for one in listed} == {row["handler"]}
        assert listed[0]["id"] == row["example"]
    assert "order # of customer #" in (await receiver("dead-letters", "groups")).out


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ((), 10),
        (("--handler", "crm"), 5),
        (("--error-type", "LookupError"), 4),
        (("--source", "one"), 6),
        (("--type", "bounced"), 4),
        (("--since", "1h"), 10),
        (("--since", "2100-01-01"), 0),
        (("--handler", "crm", "--type", "clicked"), 3),
        (("--limit", "2"), 2),
    ],
)
async def test_filters(
    database: str, sql: asyncpg.Connection, receiver: Receiver, options: tuple[str, ...], count: int
) -> None:
    """each filter finds what it names, the newest first, and groups know the same filters"""
    await letters(database, sql)
    ids = [row["id"] for row in (await receiver("dead-letters", "list", "--json", *options)).rows]
    assert len(ids) == count
    assert ids == sorted(ids, reverse=True)
    if "--limit" not in options:
        rows = (await receiver("dead-letters", "groups", "--json", *options)).rows
        assert sum(row["letters"] for row in rows) == count


async def test_show_has_every_attempt(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a letter is shown with its event, its traceback and each attempt"""
    await letters(database, sql)
    id_ = (await receiver("dead-letters", "--json", "--type", "bounced")).rows[0]["id"]
    (shown,) = (await receiver("dead-letters", "show", str(id_), "--json")).rows
    assert [(one["attempt"], one["error_type"]) for one in shown["history"]] == [(1, "LookupError")]
    assert "in refuse" in shown["history"][0]["traceback"]
    text = (await receiver("dead-letters", "show", str(id_))).out
    assert "in refuse" in text
    assert shown["history"][0]["worker"] in text
    assert (await receiver("dead-letters", "show", "4711")).code == 1


async def test_retrying_a_group(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a group is retried after a look and a yes, its events are handled, and all others stay as they were"""
    await letters(database, sql)
    group = (await receiver("dead-letters", "groups", "--json", "--handler", "crm")).rows[0]["group"]
    looked = await receiver("dead-letters", "retry", "--group", group, "--dry-run")
    assert looked.code == 0
    assert "order # of customer #" in looked.out
    assert "3 dead letters are to be retried" in looked.err
    (row,) = (await receiver("dead-letters", "retry", "--group", group, "--dry-run", "--json")).rows
    assert row["letters"] == 3
    asked = await receiver("dead-letters", "retry", "--group", group)
    assert asked.code == 1
    assert "--yes" in asked.err
    assert await sql.fetchval("SELECT count(*) FROM retries") == 0
    assert (await receiver("dead-letters", "retry", "--group", group, "--yes")).code == 0
    seen: list[UUID] = []
    async with running(database, gives_up("crm", seen)):
        await value(sql, "SELECT count(*) FROM retries", 0)
    assert len(seen) == 3
    assert await sql.fetchval("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 7
    assert await sql.fetchval("SELECT count(*) FROM attempts") == 7
    (audit,) = await sql.fetch("SELECT action, subject FROM audit_log")
    assert (audit["action"], audit["subject"]) == ("retry", f"3 dead letters: group={group}")


async def test_discarding(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """discarding needs a reason, concerns what was chosen alone, and leaves its trace"""
    await letters(database, sql)
    assert (await receiver("dead-letters", "discard", "--all", "--yes")).code == 2
    assert (await receiver("dead-letters", "discard", "--all", "--yes", "--reason", " ")).code == 1
    options = ("--handler", "shop", "--type", "bounced", "--reason", "gone")
    looked = await receiver("dead-letters", "discard", *options, "--dry-run")
    assert "2 dead letters are to be discarded" in looked.err
    assert (await receiver("dead-letters", "discard", *options)).code == 1
    assert await sql.fetchval("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 10
    assert (await receiver("dead-letters", "discard", *options, "--yes")).code == 0
    rows = await sql.fetch("SELECT handler, event_type, reason FROM dead_letters WHERE resolution = 'discarded'")
    assert [tuple(row) for row in rows] == [("shop", "bounced", "gone")] * 2
    assert await sql.fetchval("SELECT count(*) FROM retries") == 0
    assert await sql.fetchval("SELECT subject FROM audit_log") == "2 dead letters: handler=shop event_type=bounced"


class Terminal(io.StringIO):
    """Standard input where someone sits."""

    def isatty(self) -> bool:
        return True


async def test_discarding_by_number_asks(
    database: str, sql: asyncpg.Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """no command opens a discarded letter again, so one chosen by its number is shown and asked for as well"""
    await letters(database, sql)
    id_ = (await receiver("dead-letters", "--json", "--limit", "1")).rows[0]["id"]
    words = ("dead-letters", "discard", str(id_), "--reason", "typo")
    refused = await receiver(*words)
    assert (refused.code, "--yes" in refused.err) == (1, True)
    for answer, left in (("n\n", 10), ("y\n", 9)):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        asked = await receiver(*words)
        assert asked.code == 0
        assert "1 dead letters are to be discarded" in asked.err
        assert await sql.fetchval("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == left


async def test_what_to_retry_has_to_be_said(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """nothing is retried or discarded unless it is clear which letters are meant, and all of them are there"""
    await letters(database, sql)
    first, second = [row["id"] for row in (await receiver("dead-letters", "--json", "--limit", "2")).rows]
    for words in ((), (str(first), "--all"), (str(first), "--handler", "crm"), (str(first), "4711"), ("4711",)):
        assert (await receiver("dead-letters", "retry", "--yes", *words)).code == 1
        assert (await receiver("dead-letters", "discard", "--reason", "x", "--yes", *words)).code == 1
    assert await sql.fetchval("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 10
    assert (await receiver("dead-letters", "retry", str(first), str(second))).code == 0
    assert await sql.fetchval("SELECT count(*) FROM retries") == 2
    assert (await receiver("dead-letters", "retry", "--handler", "nobody", "--yes")).code == 0
    for words in (("retry",), ("discard", "--reason", "x")):
        slip = await receiver("dead-letters", *words, "--group", "deadbeef", "--yes")
        assert (slip.code, "`receiver dead-letters groups` shows what there is" in slip.err) == (1, True)
    assert (await receiver("dead-letters", "retry", "--all", "--yes")).code == 0
    assert await sql.fetchval("SELECT count(*) FROM retries") == 10


NARROWED = """
from receiver import EventType, handler


@handler(types=[EventType.BOUNCED], tag=["vip"], name="notes")
async def notes(event, ctx):
    pass
"""


@pytest.mark.parametrize(("known", "batch"), [(True, False), (False, False), (False, True)])
async def test_what_the_filter_takes_no_more(
    database: str, sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path, *, known: bool, batch: bool
) -> None:
    """a letter that no handler would take any more stays open: left out where the code is found, else given back"""
    got: list[UUID] = []

    @handler(name="notes", types=[EventType.BOUNCED], tag=["vip"])
    async def one_by_one(event: Event, _ctx: Context) -> None:
        got.append(event.id)

    @handler(name="notes", types=[EventType.BOUNCED], tag=["vip"], batch=True)
    async def together(events: Sequence[Event], _ctx: Context) -> None:
        got.extend(event.id for event in events)

    narrow = together if batch else one_by_one

    await prepared(sql, [gives_up("notes")])
    await store(sql, 2, type="sent", tags=["vip"])
    await store(sql, 1, type="bounced")
    (read_again, wanted) = await store(sql, 2, type="bounced", tags=["vip"])
    async with running(database, gives_up("notes")):
        await value(sql, "SELECT count(*) FROM dead_letters", 5)
    await sql.execute("UPDATE events SET type = 'sent' WHERE id = $1", read_again)
    if known:
        (tmp_path / "handlers").mkdir()
        (tmp_path / "handlers" / "notes.py").write_text(NARROWED)
    async with running(database, narrow):
        await value(sql, "SELECT count(*) > 0 FROM workers", expected=True)
        looked = await receiver("dead-letters", "retry", "--all", "--dry-run")
        assert ("1 dead letters are to be retried" in looked.err) is known
        ended = await receiver("dead-letters", "retry", "--all", "--yes")
        assert (ended.code, "open letter again" in ended.out) == (0, not known)
        assert ("4 letters of notes are left out and stay open" in ended.err) is known
        await value(sql, "SELECT count(*) FROM retries", 0)
        left = (await receiver("dead-letters", "--json")).rows
        assert got == [wanted]
        assert len(left) == 4
        (letter,) = (await receiver("dead-letters", "show", str(left[0]["id"]), "--json")).rows
        assert (letter["resolution"], len(letter["history"])) == (None, 1)
        again = await receiver("dead-letters", "retry", str(left[0]["id"]))
        assert (again.code, "there is nothing to retry" in again.err) == (int(known), known)
        await value(sql, "SELECT count(*) FROM retries", 0)
    assert await sql.fetchval("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 4


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("UPDATE handlers SET state = 'paused'", "it is paused"),
        ("UPDATE handlers SET breaker_since = now(), breaker_error = ''", "its breaker is open"),
        ("DELETE FROM workers", "no worker runs it now"),
        ("SELECT", None),
    ],
)
async def test_a_retry_says_what_it_waits_for(
    database: str, sql: asyncpg.Connection, receiver: Receiver, change: str, why: str | None
) -> None:
    """retrying promises the event within seconds only where the handler runs; else it says what that waits for"""
    await letters(database, sql)
    await sql.execute(
        "INSERT INTO workers (id, name, handlers, expires_at)"
        " VALUES (gen_random_uuid(), 'w', '{crm,shop}', now() + interval '1h')"
    )
    await sql.execute(change)
    ended = await receiver("dead-letters", "retry", "--handler", "crm", "--yes")
    assert ended.code == 0
    assert ("within seconds" in ended.out) is (why is None)
    assert ended.err.startswith(f"crm gets nothing at present: {why}" if why else "")
    assert bool(ended.err) is (why is not None)
    assert "shop" not in ended.err
    assert await sql.fetchval("SELECT count(*) FROM retries") == 5


async def test_a_removed_handlers_letters_are_not_retried(
    database: str, sql: asyncpg.Connection, receiver: Receiver
) -> None:
    """letters of a handler that was removed stay open: a retry is refused with what to do, and leaves nothing behind"""
    await letters(database, sql)
    assert (await receiver("handlers", "remove", "crm", "--yes")).code == 0
    id_ = await sql.fetchval("SELECT min(id) FROM dead_letters WHERE handler = 'crm'")
    for words in ((str(id_),), ("--all", "--yes"), ("--all", "--dry-run")):
        refused = await receiver("dead-letters", "retry", *words)
        assert (refused.code, refused.out.count("retried")) == (1, 0)
        assert "`receiver dead-letters discard --handler crm --reason ...`" in " ".join(refused.err.split())
    assert await sql.fetchval("SELECT count(*) FROM retries") == 0
    assert await sql.fetchval("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 10
    assert (await receiver("dead-letters", "retry", "--handler", "shop", "--yes")).code == 0


async def test_more_than_a_chunk(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """any number of letters is retried, in transactions of bounded size, and each has its row in the audit log"""
    await prepared(sql, [gives_up("crm")])
    await sql.execute(
        "INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error) "
        "SELECT 'crm', gen_random_uuid(), jsonb_build_object('received_at', now(), 'shard', n % 64), 'sent', 's', 1, "
        "'E', n::text FROM generate_series(1, $1::int) n",
        2 * CHUNK + 7,
    )
    (row,) = (await receiver("dead-letters", "groups", "--json")).rows
    assert (row["letters"], row["error"]) == (2 * CHUNK + 7, "#")
    ended = await receiver("dead-letters", "retry", "--all", "--yes")
    assert (ended.code, ended.out) == (0, f"retried {2 * CHUNK + 7} dead letters\n")
    assert await sql.fetchval("SELECT count(*) FROM retries") == 2 * CHUNK + 7
    assert [row[0] for row in await sql.fetch("SELECT subject FROM audit_log ORDER BY id")] == [
        f"{CHUNK} dead letters: all",
        f"{CHUNK} dead letters: all",
        "7 dead letters: all",
    ]


async def test_a_connection_lost_between_chunks(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """where the connection is lost on the way, it is said how many letters are done, and the rest stays open"""
    await sql.execute(
        "INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error) "
        "SELECT 'crm', gen_random_uuid(), '{}', 'sent', 's', 1, 'E', 'x' FROM generate_series(1, $1::int) n",
        2 * CHUNK,
    )
    await sql.execute(CUT_AT_THE_SECOND)
    ended = await receiver("dead-letters", "discard", "--all", "--reason", "x", "--yes")
    assert ended.code == 1
    assert f"stopped after at least {CHUNK} of {2 * CHUNK}; say it again for the rest" in ended.err
    assert "was lost" in ended.err
    assert await sql.fetchval("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == CHUNK
