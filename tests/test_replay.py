"""Handing stored events to handlers again: what is chosen, what holds while it runs, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest

from receiver import Context, Event, EventType, GiveUp, Handler, Outcome, RetryAfter, handler
from receiver.cli.options import rate
from receiver.store.replays import (
    AHEAD,
    CHUNK,
    Accepts,
    Selection,
    Standing,
    cancel_replay,
    list_replays,
    put_events,
    start_replay,
)
from tests.cli import Receiver
from tests.log_events import store
from tests.waiting import until
from tests.workers import Running, all_read, prepared, running, value

WAITING = "SELECT count(*) FROM retries"
ALL = Selection(sources=["test"])
PEAKS = """
CREATE TABLE peaks (size bigint);
CREATE FUNCTION note_size() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO peaks SELECT count(*) FROM retries; RETURN NULL; END';
CREATE TRIGGER note_size AFTER INSERT ON retries FOR EACH STATEMENT EXECUTE FUNCTION note_size();
"""
CUT_AT_THE_SECOND = """
CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN IF (SELECT put FROM replays) > 0 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
     RETURN NULL; END';
CREATE TRIGGER cut AFTER INSERT ON retries FOR EACH STATEMENT EXECUTE FUNCTION cut();
"""
FILTERED = """
from receiver import Context, Event, EventType, handler


@handler(types=[EventType.BOUNCED], name="notes")
async def notes(event: Event, ctx: Context) -> None:
    pass
"""


class Seen:
    """What handlers got: name -> events with `ctx.replaying`."""

    def __init__(self) -> None:
        self.events: dict[str, list[tuple[UUID, bool]]] = {}

    def notes(self, name: str = "notes", **options: Any) -> Handler:
        async def note(event: Event, ctx: Context) -> None:
            self.events.setdefault(name, []).append((event.id, ctx.replaying))
            await ctx.send(template="t", topic="news", to="a@example.com", key=f"{name} {event.id} {ctx.replaying}")

        decorate: Callable[..., Callable[..., Handler]] = cast("Any", handler)
        return decorate(name=name, **options)(note)

    def again(self, name: str = "notes") -> list[UUID]:
        return [id_ for id_, replaying in self.events.get(name, []) if replaying]


@asynccontextmanager
async def joined(database: str, sql: asyncpg.Connection, *handlers: Handler) -> AsyncIterator[Running]:
    """A worker that has joined, so that the command line sees it."""
    async with running(database, *handlers) as worker:
        await value(sql, "SELECT count(*) > 0 FROM workers", expected=True)
        yield worker


async def store_mix(sql: asyncpg.Connection) -> dict[str, list[UUID]]:
    """Stored events of several kinds, by a name."""
    return {
        "bounces": await store(sql, 3, type="bounced", source="one", provider="ses"),
        "clicks": await store(sql, 2, type="clicked", source="two"),
        "scans": await store(sql, 2, type="clicked", actor="machine", source="two"),
        "tests": await store(sql, 1, type="bounced", is_test=True, source="one"),
        "ann": await store(sql, 1, recipient="ann@example.com"),
    }


async def test_what_has_to_be_said(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a replay of everything, to no handler, to an unknown one or with nobody to ask is refused"""
    seen = Seen()
    await prepared(sql, [seen.notes()])
    await store(sql, 2)
    async with joined(database, sql, seen.notes()):
        await all_read(sql)
        for words, why in (
            ((), "say which events"),
            (("--handler", "notes"), "say which events"),
            (("--since", "1h"), "say to which handler"),
            (("--since", "1h", "--handler", "other"), "there are: notes"),
            (("--event", "7", "--handler", "notes"), "event's id"),
            (("--since", "1h", "--handler", "notes"), "--yes"),
        ):
            ended = await receiver("replay", *words)
            assert ended.code == 1
            assert why in ended.err
    assert await sql.fetchval("SELECT count(*) FROM replays") == 0
    assert seen.again() == []


@pytest.mark.parametrize("text", ["", " ", "ann.example.com", "ann@", "ann@example.com bob"])
async def test_no_address_is_not_every_address(sql: asyncpg.Connection, receiver: Receiver, text: str) -> None:
    """a recipient that is no address, as where a shell's variable is empty, is an error and chooses nobody"""
    await store(sql, 2)
    await prepared(sql, [Seen().notes()])
    replay = ("replay", "--handler", "notes", "--since", "1h", "--dry-run")
    for words in (replay, ("events", "list"), ("sends", "list")):
        ended = await receiver(*words, "--recipient", text, "--json")
        assert (ended.code, ended.out) == (2, "")
        assert "--recipient" in ended.err


async def test_the_whole_selection_is_named(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """before it asks, a replay says by everything that was chosen which events it means, also where there are none"""
    (id_,) = await store(sql, 1, recipient="ann@example.com")
    await prepared(sql, [Seen().notes()])
    bounds = ("--since", "2020-01-31", "--until", "2099-01-31T12:00Z")
    of = ("--recipient", "Ann@Example.com", "--type", "delivered", "--type", "bounced", "--source", "test")
    words = ("replay", "--handler", "notes", *bounds, *of, "--event", str(id_), "--dry-run")
    chosen = (
        "chosen: type delivered or bounced, source test, provider {}, recipient ann@example.com, id {}, "
        "received since 2020-01-31 00:00:00 UTC, received before 2099-01-31 12:00:00 UTC"
    )
    provider = await sql.fetchval("SELECT provider FROM events")
    for named, begin in ((provider, "1 events to notes; "), ("nobody", "there is nothing to hand over; ")):
        ended = await receiver(*words, "--provider", named)
        assert ended.code == 0
        assert begin + chosen.format(named, id_) in ended.err


async def test_replay_after_success(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """events that were handled are handled again; the handler knows, and queues no message"""
    seen = Seen()
    await prepared(sql, [seen.notes()])
    ids = await store(sql, 20)
    async with joined(database, sql, seen.notes()):
        await value(sql, "SELECT count(*) FROM sends", 20)
        for time_ in (1, 2):
            ended = await receiver("replay", "--handler", "notes", "--since", "1h", "--yes", "--json")
            assert ended.code == 0, ended.err
            assert Counter(seen.again()) == Counter(ids * time_)
    (row,) = ended.rows
    assert (row["handler"], row["state"], row["events"], row["handled"]) == ("notes", "done", 20, 20)
    assert (row["failed"], row["dead"], row["waiting"], row["busy"]) == (0, 0, 0, 0)
    assert await sql.fetchval("SELECT count(*) FROM sends") == 20
    assert await sql.fetchval(WAITING) == 0
    listed = (await receiver("replay", "list", "--json")).rows
    assert [(one["id"], one["handled"]) for one in listed] == [(2, 20), (1, 20)]
    assert [row[0] for row in await sql.fetch("SELECT subject FROM audit_log")] == [
        "replay 1: notes, 20",
        "replay 2: notes, 20",
    ]


async def test_with_side_effects(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """with side effects a replayed event is as a new one: the handler is not told, and its messages are queued"""
    seen = Seen()
    await store(sql, 3)
    await prepared(sql, [seen.notes()])  # it begins after these events
    async with joined(database, sql, seen.notes()):
        ended = await receiver("replay", "--handler", "notes", "--since", "1h", "--with-side-effects", "--yes")
        assert ended.code == 0, ended.err
        await value(sql, WAITING, 0)
    assert [replaying for _, replaying in seen.events["notes"]] == [False] * 3
    assert await sql.fetchval("SELECT count(*) FROM sends") == 3
    assert "with side effects" in await sql.fetchval("SELECT subject FROM audit_log")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--type", "bounced"), ["bounces"]),
        (("--type", "bounced", "--type", "clicked"), ["bounces", "clicks"]),
        (("--source", "one"), ["bounces"]),
        (("--provider", "ses"), ["bounces"]),
        (("--recipient", "Ann@Example.com"), ["ann"]),
        (("--since", "1h"), ["bounces", "clicks", "ann"]),
        (("--until", "1h"), []),
        (("--since", "1h", "--type", "clicked"), ["clicks"]),
    ],
)
async def test_selections(
    database: str, sql: asyncpg.Connection, receiver: Receiver, options: tuple[str, ...], expected: list[str]
) -> None:
    """each option chooses what it names, and the handler's own filter holds besides"""
    seen = Seen()
    await prepared(sql, [seen.notes(), seen.notes("other")])
    stored = await store_mix(sql)
    async with joined(database, sql, seen.notes(), seen.notes("other")):
        await all_read(sql)
        ended = await receiver("replay", "--handler", "notes", *options, "--yes")
        assert ended.code == 0, ended.err
    assert Counter(seen.again()) == Counter(id_ for name in expected for id_ in stored[name])
    assert seen.again("other") == []


async def test_single_events_and_all_handlers(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """events are chosen by their ids, and `all` means every handler"""
    seen = Seen()
    handlers = (seen.notes("one"), seen.notes("two"))
    await prepared(sql, handlers)
    first, second, _ = await store(sql, 3)
    async with joined(database, sql, *handlers):
        await all_read(sql)
        words = ("--event", str(first), "--event", str(second), "--handler", "all", "--yes", "--json")
        rows = (await receiver("replay", *words)).rows
    assert {(row["handler"], row["handled"]) for row in rows} == {("one", 2), ("two", 2)}
    assert Counter(seen.again("one")) == Counter(seen.again("two")) == Counter([first, second])


async def test_dry_run(sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path) -> None:
    """a dry run counts by type what the handler's filter lets through, with times and a sample, and does nothing"""
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "notes.py").write_text(FILTERED)
    seen = Seen()
    stored = await store_mix(sql)
    await prepared(sql, [seen.notes("everything"), seen.notes()])
    unread = await store(sql, 2, type="bounced")
    words = ("replay", "--handler", "notes", "--handler", "everything", "--since", "1h", "--dry-run")
    ended = await receiver(*words, "--json")
    assert ended.code == 0, ended.err
    notes, everything = ended.rows
    assert [(one["type"], one["events"], one["unread"]) for one in notes["types"]] == [("bounced", 3, 2)]
    assert {one["type"]: one["events"] for one in everything["types"]} == {"bounced": 4, "clicked": 4, "delivered": 1}
    assert {UUID(one["id"]) for one in notes["sample"]} == set(stored["bounces"])
    assert notes["types"][0]["first"] <= notes["types"][0]["last"]
    assert notes["accepts"]["types"] == ["bounced"]
    text = await receiver(*words)
    assert "notes has not read 2 of the chosen events yet" in text.err
    assert "the code of everything was not found from here: its own filter is not known" in text.err
    assert (notes["filter_known"], everything["filter_known"]) == (True, False)
    (tmp_path / "handlers" / "broken.py").write_text("raise RuntimeError('typo')")
    broken = await receiver(*words, "--json")
    assert [sum(one["events"] for one in row["types"]) for row in broken.rows] == [9, 9]
    assert "the code of notes, everything was not found from here, as" in broken.err
    assert "RuntimeError: typo" in broken.err
    assert str(unread[0]) not in text.out
    assert await sql.fetchval(WAITING) == 0
    assert await sql.fetchval("SELECT count(*) FROM replays") == 0


async def test_logs_are_no_part_of_the_answer(database: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """what is logged while a command runs, here by a file of handlers, goes to standard error: --json stays JSON"""
    await store(sql, 3, type="bounced")
    await prepared(sql, [Seen().notes()])
    (tmp_path / "handlers").mkdir()
    loud = "import structlog\nstructlog.get_logger().warning('loaded')\n"
    (tmp_path / "handlers" / "notes.py").write_text(loud + FILTERED)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "receiver", "replay", "--handler", "notes", "--since", "1h", "--dry-run", "--json"),
        env={**os.environ, "RECEIVER_DATABASE": database, "PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert [json.loads(line)["events"] for line in out.splitlines()] == [3]
    assert b"loaded" in err


async def test_nothing_runs(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a replay to a handler that is not running or is paused is refused, and says why"""
    await store(sql)
    await prepared(sql, [Seen().notes()])
    words = ("replay", "--handler", "notes", "--since", "1h", "--yes")
    assert "no worker runs it now" in (await receiver(*words)).err
    await sql.execute("UPDATE handlers SET state = 'paused' WHERE name = 'notes'")
    ended = await receiver(*words)
    assert ended.code == 1
    assert "it is paused (`receiver handlers resume notes` lets it go on)" in ended.err
    assert await sql.fetchval(WAITING) == 0


async def test_all_but_those_that_are_gone(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """`all` leaves out a handler that is out of the code, and names what holds back another one"""
    seen = Seen()
    await store(sql)
    await prepared(sql, [seen.notes(), seen.notes("other"), seen.notes("old")])
    words = ("replay", "--handler", "all", "--since", "1h", "--json")
    assert [row["handler"] for row in (await receiver(*words, "--dry-run")).rows] == ["notes", "old", "other"]
    async with joined(database, sql, seen.notes(), seen.notes("other")):
        ended = await receiver(*words, "--yes")
        assert ended.code == 0, ended.err
        assert "old is left out" in ended.err
        assert "`receiver handlers remove old`" in ended.err
        assert {row["handler"] for row in ended.rows} == {"notes", "other"}
        await sql.execute("UPDATE handlers SET state = 'paused' WHERE name = 'other'")
        refused = await receiver(*words, "--yes")
        assert refused.code == 1
        assert "`receiver handlers resume other`" in refused.err
        assert "Or leave it out: --handler notes" in refused.err


async def test_what_is_unread_comes_by_itself(sql: asyncpg.Connection) -> None:
    """an event beyond the handler's cursor, or in a transaction that was open when it was read, is not put"""
    await prepared(sql, [Seen().notes()])
    txid = await sql.fetchval("SELECT pg_current_xact_id()")
    read_ones = await store(sql, 2, shard=3)
    (pending,) = await store(sql, 1, shard=3)
    (beyond,) = await store(sql, 1, shard=3)
    place = await sql.fetchrow("SELECT txid, position FROM events WHERE id = $1", pending)
    assert place is not None
    assert place["txid"] > txid
    await sql.execute("UPDATE cursors SET txid = $1, position = $2, pending = ARRAY[$1::xid8] WHERE shard = 3", *place)
    id_ = await start_replay(
        sql, "notes", Selection(types=["delivered"]), Accepts(), side_effects=False, events=4, by="me"
    )
    assert await put_events(sql, id_, limit=10) == 2
    assert {row[0] for row in await sql.fetch("SELECT event_id FROM retries")} == set(read_ones)
    assert beyond not in read_ones


async def test_chunks_and_what_waits_already(sql: asyncpg.Connection) -> None:
    """chunks walk through all events once, in the log's order; one that waits for a retry of its own is left to that"""
    await store(sql, 50)
    await prepared(sql, [Seen().notes()])
    await sql.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at, error) "
        "SELECT 'notes', id, received_at, shard, 'failed', 'infinity', 'x' FROM events LIMIT 1"
    )
    id_ = await start_replay(sql, "notes", ALL, Accepts(), side_effects=False, events=50, by="me")
    sizes = [await put_events(sql, id_, limit=20) for _ in range(4)]
    assert sizes == [20, 20, 10, 0]
    row = await sql.fetchrow("SELECT state, put, busy FROM replays")
    assert row is not None
    assert tuple(row) == ("done", 49, 1)
    assert await sql.fetchval("SELECT count(*) FROM retries WHERE replay_id = 1 AND cause = 'replay'") == 49
    due = await sql.fetch(
        "SELECT e.shard, e.position FROM retries r JOIN events e ON e.id = r.event_id "
        "WHERE r.replay_id = 1 ORDER BY r.next_at"
    )
    assert [tuple(row) for row in due] == sorted(tuple(row) for row in due)


async def results(receiver: Receiver) -> set[tuple[str, int, int, int]]:
    """(handler, handled, failed, dead) of each replay."""
    rows = (await receiver("replay", "list", "--json")).rows
    return {(row["handler"], row["handled"], row["failed"], row["dead"]) for row in rows}


async def test_failures_in_a_replay(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """what fails in a replay is told apart from what is handled, goes on as a replay, and may become a dead letter"""
    replaying: list[bool] = []

    @handler(name="notes", max_attempts=2)
    async def notes(event: Event, ctx: Context) -> None:
        replaying.append(ctx.replaying)
        if event.type is EventType.BOUNCED:
            raise RuntimeError("no")

    @handler(name="strict", max_attempts=1)
    async def strict(event: Event, _ctx: Context) -> None:
        if event.type is EventType.BOUNCED:
            raise RuntimeError("no")

    await store(sql, 2, type="bounced")
    await store(sql, 3)
    await prepared(sql, [notes, strict])
    async with joined(database, sql, notes, strict):
        ended = await receiver("replay", "--handler", "all", "--since", "1h", "--yes")
        assert ended.code == 1
        assert "dead-letters groups" in ended.err
        assert await results(receiver) == {("notes", 3, 2, 0), ("strict", 3, 0, 2)}
        await sql.execute("UPDATE retries SET next_at = now()")
        await value(sql, WAITING, 0)
    assert all(replaying)
    assert await results(receiver) == {("notes", 3, 0, 2), ("strict", 3, 0, 2)}


async def test_resumed_when_the_handler_is_mended(
    database: str, sql: asyncpg.Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a replay stops when the handler fails on and on; once that is mended, it goes on to its end, as it has said"""
    for name, size in (("MOST_FAILED", 20), ("CHUNK", 10), ("AHEAD", 20)):
        monkeypatch.setattr(f"receiver.cli.handing_over.{name}", size)
    broken = True

    @handler(name="notes", breaker=0)
    async def notes(_event: Event, _ctx: Context) -> Outcome | None:
        return GiveUp("no") if broken else None

    await store(sql, 100)
    await prepared(sql, [notes])
    async with joined(database, sql, notes):
        for words in (("--handler", "notes", "--since", "1h", "--yes"), ("resume", "1")):
            stopped = await receiver("replay", *words)
            assert stopped.code == 1
            assert "correct it, then `receiver replay resume 1`" in stopped.err
        put = await sql.fetchval("SELECT put FROM replays")
        assert 40 <= put < 100
        await value(sql, WAITING, 0)
        broken = False
        assert (await receiver("dead-letters", "retry", "--all", "--yes")).code == 0
        await value(sql, WAITING, 0)
        ended = await receiver("replay", "resume", "1", "--json")
    assert ended.code == 0, ended.err
    (row,) = ended.rows
    assert (row["state"], row["put"], row["dead"], row["unresolved"]) == ("done", 100, put, 0)


async def test_asking_for_later_is_no_failure(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """what a handler asks to be given later is told as that, and a replay with nothing else has not failed"""

    @handler(name="notes")
    async def notes(_event: Event, _ctx: Context) -> Outcome:
        return RetryAfter(3600, "busy")

    await store(sql, 3)
    await prepared(sql, [notes])
    async with joined(database, sql, notes):
        ended = await receiver("replay", "--handler", "notes", "--since", "1h", "--yes", "--json")
        assert ended.code == 0, ended.err
        assert "notes has asked to be given 3 events later" in ended.err
        (row,) = ended.rows
        assert (row["handled"], row["asked"], row["failed"], row["waiting"]) == (0, 3, 0, 0)
        looked = await receiver("replay", "cancel", "1", "--dry-run")
        assert "3 that wait for notes are to be taken back" in looked.out


async def test_what_is_asked_for_later_is_not_far_ahead(
    database: str, sql: asyncpg.Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a handler that asks for later every time is not given the whole selection to put into retries"""
    monkeypatch.setattr("receiver.cli.handing_over.AHEAD", 20)
    busy = True

    @handler(name="notes")
    async def notes(_event: Event, _ctx: Context) -> Outcome | None:
        return RetryAfter(3600, "busy") if busy else None

    await sql.execute(PEAKS)
    await store(sql, 60)
    await prepared(sql, [notes])
    async with joined(database, sql, notes):
        work = asyncio.ensure_future(receiver("replay", "--handler", "notes", "--since", "1h", "--yes", "--json"))
        await value(sql, "SELECT count(*) FROM retries WHERE cause = 'replay' AND error IS NOT NULL", 20)
        busy = False
        await sql.execute("UPDATE retries SET next_at = now()")
        (row,) = (await work).rows
    assert (row["handled"], row["asked"]) == (60, 0)
    assert await sql.fetchval("SELECT max(size) FROM peaks") == 20


async def test_in_order_behind_a_failure(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a replay does not wait for events that an ordered handler holds back behind one that failed"""

    @handler(name="strict", ordered=True, breaker=0)
    async def strict(event: Event, _ctx: Context) -> None:
        if event.type is EventType.BOUNCED:
            raise RuntimeError("no")

    await store(sql, 1, type="bounced", recipient="ann@example.com")
    await store(sql, 2, recipient="ann@example.com")
    await store(sql, 2)
    await prepared(sql, [strict])
    async with joined(database, sql, strict):
        ended = await receiver("replay", "--handler", "strict", "--since", "1h", "--yes")
    assert ended.code == 1
    assert await results(receiver) == {("strict", 2, 3, 0)}


async def test_never_far_ahead(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """events are put no faster than the workers take them: the table of retries stays small"""
    open_ = asyncio.Event()

    @handler(name="slow")
    async def slow(_event: Event, _ctx: Context) -> None:
        await open_.wait()

    await sql.execute(PEAKS)
    await store(sql, AHEAD + 700)
    await prepared(sql, [slow])
    async with joined(database, sql, slow):
        work = asyncio.ensure_future(receiver("replay", "--handler", "slow", "--since", "1h", "--yes", "--json"))
        await value(sql, "SELECT put FROM replays", AHEAD)
        open_.set()
        (row,) = (await work).rows
    assert AHEAD - 500 <= await sql.fetchval("SELECT max(size) FROM peaks") <= AHEAD
    assert (row["events"], row["handled"]) == (AHEAD + 700, AHEAD + 700)


async def test_stopped_and_resumed(database: str, sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path) -> None:
    """Ctrl-C stops a replay between two chunks and says how to go on; resumed, each event was handed over once"""
    seen = Seen()
    ids = await store(sql, 40)
    await prepared(sql, [seen.notes()])
    async with joined(database, sql, seen.notes()):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "receiver", "replay", "--handler", "notes", "--since", "1h", "--yes"),
            *("--rate", "5/s"),
            cwd=tmp_path,
            env=dict(os.environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await value(sql, "SELECT put >= 2 FROM replays", expected=True)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 130
        assert "Go on at 5 a second with `receiver replay resume 1`" in " ".join(err.decode().split())
        (row,) = (await receiver("replay", "list", "--json")).rows
        assert (row["state"], row["rate"]) == ("running", 5)
        assert 2 <= row["put"] < 40
        (row,) = (await receiver("replay", "resume", "--rate", "500/s", "--json")).rows
    assert (row["state"], row["handled"], row["rate"]) == ("done", 40, 500)
    assert Counter(seen.again()) == Counter(ids)
    assert "no replay is unfinished" in (await receiver("replay", "resume")).err
    assert (await receiver("replay", "resume", "99")).code == 1


async def test_a_lost_connection(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """where the connection is lost on the way, it is said how to go on"""
    await store(sql, CHUNK + 10)
    await prepared(sql, [Seen().notes()])
    await start_replay(sql, "notes", ALL, Accepts(), side_effects=False, events=CHUNK + 10, by="me")
    await sql.execute(CUT_AT_THE_SECOND)
    ended = await receiver("replay", "resume")
    assert ended.code == 1
    assert f"{CHUNK} of {CHUNK + 10} events were handed over. Go on with `receiver replay resume 1`" in ended.err
    assert "was lost" in ended.err


async def test_a_resumed_replay_keeps_its_rate(
    database: str, sql: asyncpg.Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a replay goes on at the rate it was started with"""
    seen = Seen()
    await store(sql, 5)
    await prepared(sql, [seen.notes()])
    puts: list[int] = []

    async def put(connection: asyncpg.Connection, id_: int, *, limit: int, seen: int) -> int:
        puts.append(limit)
        return await put_events(connection, id_, limit=limit, seen=seen)

    monkeypatch.setattr("receiver.store.replays.put_events", put)
    await start_replay(sql, "notes", ALL, Accepts(), side_effects=False, events=5, by="me", rate=20)
    async with joined(database, sql, seen.notes()):
        (row,) = (await receiver("replay", "resume", "1", "--json")).rows
    assert (row["handled"], row["rate"]) == (5, 20)
    assert puts[0] == 1  # and not a whole chunk


async def test_two_that_resume_one_replay_share_its_rate(
    database: str, sql: asyncpg.Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """whoever hands a replay over beside somebody else does not make it faster, and both see its end"""
    seen = Seen()
    ids = await store(sql, 100)
    await prepared(sql, [seen.notes()])
    await start_replay(sql, "notes", ALL, Accepts(), side_effects=False, events=100, by="me", rate=10)
    clock, looks = [0.0], Counter[int]()

    async def look(sql: asyncpg.Connection, *args: Any, **options: Any) -> list[Standing]:
        looks[id(sql)] += 1
        return await list_replays(sql, *args, **options)

    async def looked() -> bool:
        return len(looks) == 2 and min(looks.values()) >= 6

    monkeypatch.setattr("receiver.cli.handing_over.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("receiver.store.replays.list_replays", look)
    async with joined(database, sql, seen.notes()):
        both = [asyncio.ensure_future(receiver("replay", "resume", "1")) for _ in range(2)]
        for clock[0], most in ((0.0, 2), (2.0, 22), (4.0, 42)):  # the first one of each comes at once
            looks.clear()
            await until(looked)
            assert most - 1 <= await sql.fetchval("SELECT put FROM replays") <= most
        clock[0] = 1000.0
        assert [one.code for one in await asyncio.gather(*both)] == [0, 0]
    assert Counter(seen.again()) == Counter(ids)


async def test_cancelling(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a cancelled replay takes back what waits, and nothing else"""
    await store(sql, 30)
    await prepared(sql, [Seen().notes()])
    id_ = await start_replay(sql, "notes", ALL, Accepts(), side_effects=False, events=30, by="me")
    await put_events(sql, id_, limit=20)
    await sql.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at) "
        "VALUES ('notes', gen_random_uuid(), now(), 0, 'failed', now())"
    )
    await sql.execute(
        "DELETE FROM retries WHERE event_id IN (SELECT event_id FROM retries WHERE replay_id = 1 LIMIT 3)"
    )
    looked = await receiver("replay", "cancel", str(id_), "--dry-run")
    assert "3 of 30 events handled: 17 that wait for notes are to be taken back" in looked.out
    assert "--yes" in (await receiver("replay", "cancel", str(id_))).err
    assert await sql.fetchval(WAITING) == 18
    ended = await receiver("replay", "cancel", str(id_), "--yes")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, f"cancelled replay {id_}: 17 events were taken back")
    assert await sql.fetchval(WAITING) == 1
    assert await put_events(sql, id_, limit=20) == 0
    (row,) = (await receiver("replay", "list", "--json")).rows
    assert (row["state"], row["handled"], row["taken_back"]) == ("cancelled", 3, 17)
    assert (await receiver("replay", "cancel", "99", "--yes")).code == 1


async def test_a_finished_replay_is_not_cancelled(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a replay that is at its end stays as it ended; one that has put everything can take back what still waits"""
    await store(sql, 3)
    await prepared(sql, [Seen().notes()])
    finished, waits = [
        await start_replay(sql, "notes", ALL, Accepts(), side_effects=False, events=3, by="me") for _ in range(2)
    ]
    await put_events(sql, finished, limit=20)
    await sql.execute("DELETE FROM retries")  # as handled
    await put_events(sql, waits, limit=20)
    before = await sql.fetchrow("SELECT * FROM replays WHERE id = $1", finished)
    ended = await receiver("replay", "cancel", str(finished), "--yes")
    assert ended.code == 1
    assert "has ended (done)" in ended.err
    assert await cancel_replay(sql, finished) is None  # someone has looked before it ended
    assert await sql.fetchrow("SELECT * FROM replays WHERE id = $1", finished) == before
    assert (await receiver("replay", "cancel", str(waits), "--yes")).code == 0
    assert await sql.fetchval(WAITING) == 0
    assert [(one["state"], one["handled"]) for one in (await receiver("replay", "list", "--json")).rows] == [
        ("cancelled", 0),
        ("done", 3),
    ]


async def test_a_retried_letter_is_no_replay(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a dead letter that is retried while its event waits in a replay is handed over with its side effects"""
    seen = Seen()
    broken = True

    @handler(name="notes", max_attempts=1)
    async def notes(event: Event, ctx: Context) -> None:
        if broken:
            raise RuntimeError("no")
        seen.events.setdefault("notes", []).append((event.id, ctx.replaying))

    await prepared(sql, [notes])
    await store(sql)
    async with joined(database, sql, notes):
        await value(sql, "SELECT count(*) FROM dead_letters", 1)
    id_ = await start_replay(sql, "notes", ALL, Accepts(), side_effects=False, events=1, by="me")
    await put_events(sql, id_, limit=20)
    broken = False
    assert (await receiver("dead-letters", "retry", "--all", "--yes")).code == 0
    async with running(database, notes):
        await value(sql, WAITING, 0)
    assert [replaying for _, replaying in seen.events["notes"]] == [False]


async def test_a_letter_of_a_replay_stays_one(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """an event that was given up in a replay without side effects has none either when its dead letter is retried"""
    replaying: list[bool] = []

    @handler(name="notes", max_attempts=1, breaker=0)
    async def notes(_event: Event, ctx: Context) -> None:
        replaying.append(ctx.replaying)
        if len(replaying) == 1:
            raise RuntimeError("no")

    await store(sql)
    await prepared(sql, [notes])
    async with joined(database, sql, notes):
        assert (await receiver("replay", "--handler", "notes", "--since", "1h", "--yes")).code == 1
        retried = await receiver("dead-letters", "retry", "--all", "--yes")
        assert (retried.code, "1 of them came in a replay without side effects" in retried.err) == (0, True)
        await value(sql, WAITING, 0)
    assert replaying == [True, True]


async def test_a_live_failure_stays_one(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """an event that has failed and is given up in a rewind meanwhile has its side effects when its letter is retried"""
    replaying: list[bool] = []
    broken = True

    @handler(name="notes", first_delay=3600, breaker=0)
    async def notes(_event: Event, ctx: Context) -> Outcome | None:
        replaying.append(ctx.replaying)
        if ctx.replaying:
            return GiveUp("no")
        if broken:
            raise RuntimeError("not yet")
        return None

    await prepared(sql, [notes])
    await store(sql)
    async with joined(database, sql, notes):
        await value(sql, WAITING, 1)
        assert (await receiver("handlers", "rewind", "notes", "--since", "1h", "--yes")).code == 0
        await value(sql, "SELECT count(*) FROM dead_letters", 1)
        (letter,) = (await receiver("dead-letters", "--json")).rows
        assert (letter["error"], letter["replaying"]) == ("no", False)
        broken = False
        assert (await receiver("dead-letters", "retry", "--all", "--yes")).code == 0
        await value(sql, WAITING, 0)
    assert (True in replaying, replaying[-1]) == (True, False)


def test_rates() -> None:
    """a rate is so many in a second, minute or hour"""
    assert [rate("50"), rate("50/s"), rate("600/min"), rate("3600 / h")] == [50, 50, 10, 1]
    for text in ("0", "x", "5/d", "-1/s"):
        with pytest.raises(Exception, match="50/s"):
            rate(text)
    assert timedelta(seconds=1 / rate("60/min")) == timedelta(seconds=1)
