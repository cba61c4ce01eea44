"""Retention: what is too old goes, and nobody waits for it. One process at a time does it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from receiver.event import EventType
from receiver.maintenance import maintain_once
from receiver.retention_settings import RetentionSettings
from receiver.store import retention, tasks
from receiver.store.partitions import list_partitions
from receiver.store.steps import Busy, Done, Progress, Unfinished
from tests.aged import (
    EVENTS,
    NINETY,
    RAW,
    aged_database,
    connected,
    count,
    make_impatient,
    names,
    old_partition,
    run,
    standing_here,
)
from tests.log_events import store
from tests.service import play, running
from tests.waiting import until


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with aged_database(database) as made:
        yield made


@pytest.fixture
async def other(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Another one's connection."""
    async with connected(database) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention gives up on a lock after two short attempts."""
    make_impatient(monkeypatch)


async def test_partitions_that_are_too_old_are_dropped(connection: asyncpg.Connection) -> None:
    """partitions whose events are all older than the rule go, with what they freed; those younger stay."""
    old, young = await old_partition(connection, 100), await old_partition(connection, 89)
    (done,) = await run(connection, EVENTS)
    assert (done.part, done.relation, done.rows, done.held) == ("events", old.name, 10, ())
    assert done.bytes > 0
    assert young.name in await names(connection)
    assert await connection.fetchval("SELECT to_regclass($1)", old.name) is None
    assert await count(connection) == 10
    assert await connection.fetchval("SELECT finished_at IS NOT NULL FROM retention_steps")


async def test_by_default_events_are_kept_for_ever(connection: asyncpg.Connection) -> None:
    """without a rule no event goes, however old."""
    old = await old_partition(connection, 4000)
    assert await run(connection, RetentionSettings()) == []
    assert old.name in await names(connection)


async def test_events_are_received_while_partitions_go(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """ingest under load answers every request with success while partitions are detached and rewritten."""
    for days in range(100, 106):
        await old_partition(connection, days)
    for days in range(50, 54):
        await old_partition(connection, days)
    resend = play("resend", tmp_path)
    async with running(database, resend) as service:
        stop, statuses = asyncio.Event(), list[int]()

        async def load(client: int) -> None:
            number = 0
            while not stop.is_set():
                (post,) = resend.posts(EventType.DELIVERED, "ann@one.test", run=f"{client}-{number}")
                statuses.append((await service.post("resend", post)).status_code)
                number += 1

        loads = [asyncio.create_task(load(client)) for client in range(4)]

        async def answered(number: int) -> bool:
            return len(statuses) >= number

        await until(lambda: answered(10))
        done = await run(connection, RetentionSettings(events=NINETY, raw=timedelta(days=30)))
        then = len(statuses)
        await until(lambda: answered(then + 10))
        stop.set()
        await asyncio.gather(*loads)
        assert [one.part for one in done] == ["events"] * 6 + ["raw"] * 4
        assert set(statuses) == {200}
        assert await service.count("events") == len(statuses) + 40
        assert await service.count("quarantine") == 0


@pytest.mark.usefixtures("impatient")
async def test_an_open_select_delays_a_drop_and_nobody_else(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """while a SELECT on events is open a drop is put off, events are stored and read meanwhile; the next run drops."""
    old = await old_partition(connection, 100)
    async with other.transaction():
        assert await count(other) == 10
        with pytest.raises(Unfinished, match=old.name):
            await run(connection, EVENTS)
        await store(connection, 5)
        assert await count(connection) == 15
    (done,) = await run(connection, EVENTS)
    assert done.relation == old.name
    assert await connection.fetchval("SELECT to_regclass($1)", old.name) is None
    assert await count(connection) == 5


@pytest.mark.usefixtures("impatient")
async def test_a_partition_detached_by_hand_is_not_dropped(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """a partition that could not be dropped, and that somebody has taken out since, is theirs."""
    old = await old_partition(connection, 100)
    async with other.transaction():
        await other.execute("LOCK TABLE events IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(Unfinished, match=old.name):
            await run(connection, EVENTS)
    await other.execute(f"ALTER TABLE events DETACH PARTITION {old.name}")
    assert await run(connection, EVENTS) == []
    assert await count(connection, old.name) == 10


@pytest.mark.usefixtures("impatient")
async def test_what_waits_for_a_drop_does_not_wait_for_what_is_busy(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """a partition that cannot be dropped now keeps nothing else from being done."""
    await old_partition(connection, 100)
    await connection.execute("INSERT INTO event_ids SELECT gen_random_uuid(), now() - interval '46 days'")
    async with other.transaction():
        await count(other)
        with pytest.raises(Unfinished):
            await run(connection, EVENTS)
    assert await count(connection, "event_ids") == 0


async def test_a_rule_fails_alone(database: str, connection: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """a rule whose statement takes too long is named, and what the rules after it say goes all the same."""
    await old_partition(connection, 100)
    await connection.execute(
        """
        INSERT INTO refused (source, reason, detail, size, headers, body, refused_at)
        VALUES ('s', 'stale', '', 1, '', '', now() - interval '1 year');
        INSERT INTO alerts (key, kind, severity, text, resolved_at, resolution)
        VALUES ('a', 'k', 'warning', '', now() - interval '1 year', 'over');
        """
    )
    hasty = await asyncpg.connect(database, command_timeout=2)
    async with other.transaction():
        await other.execute("SELECT FROM refused FOR UPDATE")
        with pytest.raises(Unfinished, match=r"^refused: TimeoutError$"):
            await run(hasty, RAW)
    await hasty.close()
    assert (await count(connection, "refused"), await count(connection, "alerts")) == (1, 0)
    assert await connection.fetchval("SELECT count(raw) FROM events") == 0


async def test_a_detach_by_hand_that_was_interrupted_blocks_nothing(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """a partition that somebody left half detached stays as it is; the one that is too old is dropped."""
    old, mine = await old_partition(connection, 100), await old_partition(connection, 120)
    async with other.transaction():
        await count(other)
        with pytest.raises(TimeoutError):
            await connection.execute(f"ALTER TABLE events DETACH PARTITION {mine.name} CONCURRENTLY", timeout=0.3)
        await connection.execute("SELECT")  # by now it has been cancelled
    assert [one.relation for one in await run(connection, EVENTS)] == [old.name]
    assert await count(connection, mine.name) == 10
    await connection.execute(f"ALTER TABLE events DETACH PARTITION {mine.name} FINALIZE")


async def test_rows_go_by_their_rules(connection: asyncpg.Connection) -> None:
    """refused requests, quarantine, dead letters, sends, ids and audit go when they are too old, and nothing else.

    A send's age is counted from its end.
    """
    await connection.execute(
        """
        INSERT INTO event_ids SELECT gen_random_uuid(), now() - n * interval '1 day' FROM generate_series(40, 50) AS n;
        INSERT INTO refused (source, reason, detail, size, headers, body, refused_at)
        SELECT 's', 'stale', '', 1, '', '', now() - n * interval '1 day' FROM generate_series(25, 35) AS n;
        INSERT INTO quarantine (source, provider, kind, why, fingerprint, size, headers, body, accepted_at, received_at,
                                resolved_at, resolution)
        SELECT 's', 'p', 'item', '', n::text::bytea, 1, '', '', now(), now() - interval '1 year',
               CASE WHEN n > 0 THEN now() - n * interval '1 day' END, CASE WHEN n > 0 THEN 'released' END
        FROM generate_series(0, 35, 5) AS n;
        INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error,
                                  resolved_at, resolution)
        SELECT 'h', gen_random_uuid(), '{}', 't', 's', 1, 'E', '',
               CASE WHEN n > 0 THEN now() - n * interval '1 day' END, CASE WHEN n > 0 THEN 'discarded' END
        FROM generate_series(0, 100, 20) AS n;
        INSERT INTO sends (key, state, recipient, template, stream, handler, created_at)
        SELECT state, state, 'r', 't', 'marketing', 'h', now() - interval '3 years'
        FROM unnest('{queued,leased,sent,unknown,failed,skipped,cancelled}'::text[]) AS state;
        INSERT INTO sends (key, state, recipient, template, stream, handler, created_at, settled_at)
        SELECT n, 'sent', 'r', 't', 'marketing', 'h', now() - interval '3 years', now() - n::interval
        FROM unnest('{1 day,2 years}'::text[]) AS n;
        INSERT INTO alerts (key, kind, severity, text, resolved_at, resolution)
        SELECT n::text, 'k', 'warning', '', CASE WHEN n > 0 THEN now() - n * interval '1 day' END,
               CASE WHEN n > 0 THEN 'over' END FROM generate_series(0, 100, 50) AS n;
        INSERT INTO audit_log (at, who, action, subject) VALUES (now() - interval '3 years', 'ann', 'reveal', 'x');
        INSERT INTO confirmations (id, address_hash, topic, requested_at, expires_at)
        SELECT gen_random_uuid(), n::text::bytea, 'news', now() - interval '1 year', now() - n * interval '1 day'
        FROM generate_series(-5, 35, 5) AS n;
        INSERT INTO imports (file, fingerprint, options, began_at, finished_at, who)
        SELECT 'f', n::text::bytea, '{}', now() - interval '3 years',
               CASE WHEN n > 0 THEN now() - n * interval '2 years' END, 'ann' FROM generate_series(0, 1) AS n;
        INSERT INTO click_verdicts (event_id, actor, score, reasons, version, judged_at)
        SELECT gen_random_uuid(), 'human', 0, '{}', 1, now() - n * interval '1 day'
        FROM unnest('{380,390,400}'::int[]) AS n;
        """
    )
    done = {one.part: one.rows for one in await run(connection, RetentionSettings())}
    assert done.pop("mailed links, run out") == 2
    assert done == {"ids": 6, "refused": 6, "quarantine, resolved": 2, "dead letters, resolved": 1, "alerts, ended": 1}
    assert await count(connection, "dead_letters WHERE resolved_at IS NULL") == 1
    year = timedelta(days=365)
    rules = RetentionSettings(events=year, quarantine_open=year / 2, sends=year, audit_log=year)
    done = {one.part: one.rows for one in await run(connection, rules)}
    assert (done.pop("imports, finished"), done.pop("verdicts on clicks")) == (1, 1)
    assert done == {"quarantine, open": 1, "sends, ended": 6, "audit log": 1}
    left = {row["key"] for row in await connection.fetch("SELECT key FROM sends")}
    assert left == {"queued", "leased", "1 day"}


async def test_a_letter_that_is_being_retried_stays(connection: asyncpg.Connection) -> None:
    """a dead letter whose copy a retry still needs is kept beyond its time."""
    letter = await connection.fetchval(
        "INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error,"
        " resolved_at, resolution) VALUES ('h', gen_random_uuid(), '{}', 't', 's', 1, 'E', '',"
        " now() - interval '1 year', 'retried') RETURNING id"
    )
    await connection.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at, dead_letter_id)"
        " VALUES ('h', gen_random_uuid(), now(), 0, 'failed', now(), $1)",
        letter,
    )
    assert await run(connection, RetentionSettings()) == []
    await connection.execute("DELETE FROM retries")
    assert [one.part for one in await run(connection, RetentionSettings())] == ["dead letters, resolved"]


async def test_attempts_that_are_left_over_go(connection: asyncpg.Connection) -> None:
    """old attempts that belong to no dead letter and no waiting retry go by the rule for dead letters, others stay."""
    await connection.execute(
        """
        INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error)
        VALUES ('letter', gen_random_uuid(), '{}', 't', 's', 1, 'E', '');
        INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at)
        VALUES ('waits', gen_random_uuid(), now(), 0, 'failed', now());
        INSERT INTO attempts (handler, event_id, attempt, at, error_type, error, worker, dead_letter_id)
        SELECT handler, event_id, 1, now() - interval '100 days', 'E', '', 'w', id FROM dead_letters
        UNION ALL SELECT handler, event_id, 1, now() - interval '100 days', 'E', '', 'w', NULL FROM retries
        UNION ALL SELECT 'waits', gen_random_uuid(), 1, now() - interval '100 days', 'E', '', 'w', NULL
        UNION ALL SELECT 'young', gen_random_uuid(), 1, now() - interval '80 days', 'E', '', 'w', NULL;
        """
    )
    assert [(one.part, one.rows) for one in await run(connection, RetentionSettings())] == [("attempts, left over", 1)]
    left = [row[0] for row in await connection.fetch("SELECT handler FROM attempts ORDER BY 1")]
    assert left == ["letter", "waits", "young"]


async def test_a_duplicate_is_recognized_while_ids_go(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """ids younger than 45 days stay through a run, so that a provider's retry is stored once."""
    resend = play("resend", tmp_path)
    async with running(database, resend) as service:
        (post,) = resend.posts(EventType.DELIVERED, "ann@one.test")
        assert (await service.post("resend", post)).status_code == 200
        await connection.execute("UPDATE event_ids SET seen_at = now() - interval '44 days'")
        assert await run(connection, RetentionSettings()) == []
        assert (await service.post("resend", post)).status_code == 200
        assert await service.count("events") == 1


async def test_one_process_at_a_time(database: str, connection: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """of two that begin at once one does the work; what was done lately is not done again."""
    await old_partition(connection, 100)
    running_, go_on = asyncio.Event(), asyncio.Event()

    async def report(_: Done | Progress) -> None:
        running_.set()
        await go_on.wait()

    first = asyncio.create_task(retention.run_alone(connection, lambda: connected(database), EVENTS, report))
    await running_.wait()
    assert not await asyncio.wait_for(retention.run_alone(other, lambda: connected(database), EVENTS, report), 30)
    assert await tasks.holder(other, retention.TASK) == tasks.this_process()
    go_on.set()
    assert await first
    assert not await retention.run_alone(other, lambda: connected(database), EVENTS, report, every=timedelta(hours=1))
    assert await retention.run_alone(other, lambda: connected(database), EVENTS, report)


async def test_a_long_step_does_not_lose_the_lease(
    database: str, connection: asyncpg.Connection, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nobody takes over from a process that is in a step which takes longer than its lease."""
    monkeypatch.setattr(tasks, "LEASE", timedelta(seconds=3))
    await old_partition(connection, 100)
    taken: list[bool] = []

    async def report(_: Done | Progress) -> None:
        lease = await other.fetchval("SELECT lease_until FROM tasks WHERE name = $1", retention.TASK)

        async def run_out() -> bool:
            return bool(await other.fetchval("SELECT clock_timestamp() > $1", lease))

        await until(run_out)
        taken.append(await tasks.take(other, retention.TASK, "another"))

    assert await retention.run_alone(connection, lambda: connected(database), EVENTS, report)
    assert taken == [False]


async def test_a_failed_run_is_tried_again(database: str, connection: asyncpg.Connection) -> None:
    """a run that failed gives its lease back, says why, and is due again at once."""
    await old_partition(connection, 100)

    async def report(_: Done | Progress) -> None:
        raise Busy("no")

    with pytest.raises(Unfinished):
        await retention.run_alone(connection, lambda: connected(database), EVENTS, report, every=timedelta(days=1))
    assert await connection.fetchval("SELECT error FROM tasks WHERE finished_at IS NULL") == "events: no"

    async def fine(_: Done | Progress) -> None:
        pass

    assert await retention.run_alone(connection, lambda: connected(database), EVENTS, fine, every=timedelta(days=1))
    assert await connection.fetchval("SELECT error IS NULL FROM tasks WHERE finished_at IS NOT NULL")


async def test_maintenance_does_all_of_it(
    database: str, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """maintenance makes partitions, drops what is too old, and logs who will hold retention back."""
    old = await old_partition(connection, 100)
    await standing_here(connection, "slow")
    await old_partition(connection, 60)
    await maintain_once(database, EVENTS)
    logged = capsys.readouterr().err + caplog.text
    assert old.name not in await names(connection)
    assert len(await list_partitions(connection)) >= 3
    assert "retention_lag:slow" in logged
    assert "retention_done" in logged
