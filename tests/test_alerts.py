"""Alerts: each problem once, told to a real webhook, listed, and resolved when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from standardwebhooks.webhooks import Webhook
from structlog.testing import capture_logs

from receiver import maintenance
from receiver.alert_settings import AlertSettings
from receiver.event import EventType
from receiver.retention_settings import RetentionSettings
from receiver.store.connect import KeptConnection
from receiver.store.log import create_cursors
from receiver.store.partitions import list_partitions
from receiver.store.replays import Accepts, Selection, cancel_replay, start_replay
from receiver.watching import alarm
from receiver.watching.alarm import REPEATED, Alarm
from tests.alert_site import AlertSite, alert_site
from tests.cli import Receiver, command
from tests.log_events import store
from tests.processes import site
from tests.service import SECRET_KEY, Played, Running, play, running
from tests.waiting import until
from tests.workers import value

OFTEN: Final = 0.05  # seconds between looks


@pytest.fixture
async def hook() -> AsyncIterator[AlertSite]:
    async with alert_site() as made:
        yield made


@pytest.fixture
def receiver(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Receiver:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECEIVER_DATABASE", database)
    monkeypatch.setenv("RECEIVER_SECRET_KEY", SECRET_KEY)
    return command(capsys)


@asynccontextmanager
async def watching(
    database: str, hook: AlertSite, *played: Played, keep: RetentionSettings | None = None, **options: Any
) -> AsyncIterator[Running]:
    """The service, which looks for problems often."""
    settings, keep = hook.settings(**options), keep or RetentionSettings()
    async with running(database, *played, alerts=settings, watch_every=OFTEN, retention=keep) as service:
        yield service


async def one_event(service: Running, played: Played, run: str = "r") -> None:
    for post in played.posts(EventType.DELIVERED, "ada@one.test", run=run):
        assert (await service.post(played.source.name, post)).status_code == 200


async def heard(service: Running, source: str, *, since: datetime | None = None) -> None:
    """The database knows that the source was heard of."""

    async def noted() -> bool:
        last = await service.connection.fetchval(
            "SELECT last_event_at FROM source_activity WHERE source = $1 AND last_event_at IS NOT NULL", source
        )
        return last is not None and (since is None or last > since)

    await until(noted)


_SEEN: Final = "SELECT coalesce(max(seen_at), 'epoch') FROM source_activity"


async def looks(service: Running, count: int = 3) -> None:
    """So many looks have begun and ended since."""
    for _ in range(count):
        before = await service.connection.fetchval(_SEEN)

        async def again(before: datetime = before) -> bool:
            return bool(await service.connection.fetchval(_SEEN) > before)

        await until(again)


async def noted(connection: asyncpg.Connection) -> None:
    """It is written down that the open problems were told lately: the webhook knows that a moment earlier."""
    await value(
        connection,
        "SELECT bool_and(coalesce(notified_at > clock_timestamp() - interval '1 min', false)) FROM alerts"
        " WHERE resolved_at IS NULL",
        expected=True,
    )


async def time_passes(connection: asyncpg.Connection, minutes: int) -> None:
    """Everything that is written down about sources and alerts happened that much longer ago."""
    ago = timedelta(minutes=minutes)
    await connection.execute(
        "UPDATE source_activity SET last_event_at = last_event_at - $1::interval, watched_since = watched_since - $1",
        ago,
    )
    await connection.execute(
        "UPDATE alerts SET since = since - $1::interval, last_seen = last_seen - $1, notified_at = notified_at - $1,"
        " resolved_at = resolved_at - $1",
        ago,
    )


# Silence -----------------------------------------------------------------------------------------------------------


async def test_a_quiet_source_is_told_once_and_its_return_too(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """a source quiet for longer than expect_every is told once, and once more when events come again, both signed."""
    ses = play("ses", tmp_path, expect_every="15m")
    async with watching(database, hook, ses) as service:
        await one_event(service, ses)
        await heard(service, "ses")
        await looks(service)
        assert hook.notices == []
        await time_passes(service.connection, 18)
        (opened,) = await hook.told(1)
        assert opened.text.startswith("Warning: Amazon SES has been quiet for 18 minutes: the last event came 20")
        assert opened.text.endswith("UTC, one is expected every 15 minutes")
        await looks(service)
        await time_passes(service.connection, 24)
        await looks(service)
        assert len(hook.notices) == 1
        await one_event(service, ses, run="again")
        opened, resolved = await hook.told(2)
        assert resolved.text == "Resolved: Amazon SES is back after 42 minutes"
        await looks(service)
    assert len(hook.notices) == 2
    for notice, type_ in ((opened, "alert.opened"), (resolved, "alert.resolved")):
        assert notice.value["type"] == type_
        assert Webhook(hook.secret).verify(notice.body, notice.headers)["data"]["key"] == "silence:ses"
    assert opened.headers["webhook-id"] != resolved.headers["webhook-id"]


async def test_a_source_that_never_had_an_event(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """a source without any event is quiet only once it has been listened to for as long as expect_every."""
    shop = play("postmark", tmp_path, name="shop", expect_every="15m")
    other = play("postmark", tmp_path, name="other")
    async with watching(database, hook, shop, other) as service:
        await looks(service)
        await time_passes(service.connection, 14)
        await looks(service)
        assert hook.notices == []
        await time_passes(service.connection, 2)
        (opened,) = await hook.told(1)
        await looks(service)
    assert opened.text == (
        "Warning: shop (Postmark) has been quiet for 16 minutes: none has ever come, one is expected every 15 minutes"
    )
    assert len(hook.notices) == 1  # `other` is not expected to say anything


async def test_a_pause_of_ours_is_no_silence_of_theirs(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """after the service was down for hours nothing is told at its start: the source had nobody to talk to."""
    ses = play("ses", tmp_path, expect_every="15m")
    async with watching(database, hook, ses) as service:
        await one_event(service, ses)
        await heard(service, "ses")
        await time_passes(service.connection, 10)
    connection = await asyncpg.connect(database)
    await connection.execute(
        "UPDATE source_activity SET seen_at = seen_at - interval '3h', last_event_at = last_event_at - interval '3h'"
    )
    await connection.close()
    async with watching(database, hook, ses) as service:
        await looks(service)
        assert hook.notices == []
        await time_passes(service.connection, 16)
        (opened,) = await hook.told(1)
    assert "has been quiet for 3 hours" in opened.text


async def test_a_silence_outlives_restarts(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """a silence that was told is neither told again nor called over by a restart, however long that took."""
    ses = play("ses", tmp_path, expect_every="15m")
    async with watching(database, hook, ses) as service:
        await one_event(service, ses)
        await heard(service, "ses")
        await time_passes(service.connection, 20)
        await hook.told(1)
        await looks(service)
    for pause in ("0 min", "3 h"):
        connection = await asyncpg.connect(database)
        await connection.execute("UPDATE source_activity SET seen_at = seen_at - $1::text::interval", pause)
        await connection.close()
        async with watching(database, hook, ses) as service:
            await looks(service)
            assert await service.count("alerts WHERE resolved_at IS NULL") == 1
    assert len(hook.notices) == 1


async def test_several_processes_tell_once(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """of several web processes one tells, and events that another one receives end the silence."""
    ses = play("ses", tmp_path, expect_every="15m")
    async with watching(database, hook, ses) as first, watching(database, hook, ses) as second:
        await one_event(first, ses)
        await heard(first, "ses")
        await time_passes(first.connection, 20)
        await hook.told(1)
        await one_event(second, ses, run="again")
        await hook.told(2)
        await looks(first, 10)
        assert len(hook.notices) == 2


async def test_each_process_watches_its_own_sources(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """of processes that receive for different sources each tells its sources' silences, and ends no other's."""
    ses, shop = play("ses", tmp_path, expect_every="15m"), play("postmark", tmp_path, name="shop", expect_every="15m")
    async with watching(database, hook, ses) as first, watching(database, hook, shop) as second:
        await one_event(first, ses)
        await one_event(second, shop)
        await heard(first, "ses")
        await heard(second, "shop")
        await time_passes(first.connection, 20)
        await hook.told(2)
        await one_event(second, shop, run="again")
        await hook.told(3)
        await looks(first, 10)
        assert await first.count("alerts WHERE resolved_at IS NULL AND key = 'silence:ses'") == 1
    told = [(one.value["type"], one.value["data"]["key"]) for one in hook.notices]
    assert set(told[:2]) == {("alert.opened", "silence:ses"), ("alert.opened", "silence:shop")}
    assert told[2:] == [("alert.resolved", "silence:shop")]


async def test_a_silence_nobody_listens_to_ends(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """the silence of a source that no process has received for lately, as it was taken out, ends, and says why."""
    ses, shop = play("ses", tmp_path, expect_every="15m"), play("postmark", tmp_path, name="shop")
    async with watching(database, hook, ses) as service:
        await looks(service)
        await time_passes(service.connection, 20)
        await hook.told(1)
    async with watching(database, hook, shop) as service:
        await looks(service)
        assert await service.count("alerts WHERE resolved_at IS NULL") == 1  # its own process may come back
        await service.connection.execute("UPDATE source_activity SET seen_at = now() - interval '11 min'")
        await hook.told(2)
    assert hook.texts[1] == "Resolved: no process receives for ses any more"


async def test_the_last_deliveries_before_a_stop_are_noted(database: str, tmp_path: Path) -> None:
    """a delivery that was stored after the last look, just before the service stopped, counts as a sign of life."""
    ses = play("ses", tmp_path)
    connection = await asyncpg.connect(database)
    async with running(database, ses) as service:  # it looks when it starts, and 10 s later
        await value(connection, "SELECT count(*) FROM source_activity", 1)
        await one_event(service, ses)
    assert await connection.fetchval("SELECT last_event_at IS NOT NULL FROM source_activity")
    await connection.close()


# Looks that fail ---------------------------------------------------------------------------------------------------


class Listening:
    """An alarm that listens for `ses`. `heard`: deliveries so far. `looks`: how many have begun."""

    def __init__(self, database: str, tmp_path: Path) -> None:
        self.heard = self.looks = 0
        sources = {"ses": play("ses", tmp_path).source}
        kept = KeptConnection(database, name="receiver watch")
        self.alarm = Alarm(kept, AlertSettings(), sources=sources, heard=self._count, every=OFTEN)

    def _count(self) -> dict[str, int]:
        self.looks += 1
        return {"ses": self.heard}

    async def look(self, count: int) -> None:
        """So many more have begun."""
        wanted = self.looks + count

        async def enough() -> bool:
            return self.looks >= wanted

        await until(enough)


@pytest.fixture
async def listening(database: str, tmp_path: Path) -> AsyncIterator[Listening]:
    made = Listening(database, tmp_path)
    task = asyncio.create_task(made.alarm.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_delivery_is_noted_though_a_look_fails(database: str, listening: Listening) -> None:
    """what was heard before a look that is rolled back is noted by the next one that is not."""
    connection = await asyncpg.connect(database)
    await listening.look(2)
    await connection.execute("ALTER TABLE alerts RENAME TO gone")
    await listening.look(1)
    listening.heard = 1
    await listening.look(3)
    await connection.execute("ALTER TABLE gone RENAME TO alerts")
    await value(connection, "SELECT last_event_at IS NOT NULL FROM source_activity", expected=True)
    await connection.close()


async def test_looks_that_fail_again_and_again_are_told(database: str, listening: Listening) -> None:
    """many looks that fail in a row are told by one warning, and once more when it is over; a few are not."""
    connection = await asyncpg.connect(database)

    def said(action: str) -> list[str]:
        return [one["log_level"] for one in logged if one["action"] == action and one["log_level"] != "debug"]

    async def ended() -> bool:
        return bool(said("alerts_recovered"))

    with capture_logs() as logged:
        await listening.look(2)
        await connection.execute("ALTER TABLE alerts RENAME TO gone")
        await listening.look(3)
        assert said("alerts_failed") == []
        await listening.look(2 * REPEATED)
        assert said("alerts_failed") == ["warning"]
        await connection.execute("ALTER TABLE gone RENAME TO alerts")
        await until(ended)
        await listening.look(2)
    await connection.close()
    assert said("alerts_failed") + said("alerts_recovered") == ["warning", "info"]


# Other problems ----------------------------------------------------------------------------------------------------


LETTER: Final = """
INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error)
VALUES ('mailer', gen_random_uuid(), '{}', 'delivered', 'shop', 8, 'ValueError', 'no')
"""
QUARANTINED: Final = """
INSERT INTO quarantine (source, provider, kind, why, fingerprint, size, headers, body, accepted_at)
VALUES ('shop', 'postmark', 'item', 'odd', sha256(gen_random_uuid()::text::bytea), 1, '', '', now())
"""
BREAKER: Final = """
UPDATE handlers SET breaker_since = now(), breaker_error = 'KeyError <a@b.test>' WHERE name = 'mailer'
"""
DUE: Final = """
INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at)
VALUES ('mailer', gen_random_uuid(), now(), 0, 'failed', now() - interval '7 min')
"""
PARKED: Final = """
INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at, created_at)
VALUES ('mailer', gen_random_uuid(), now(), 0, 'parked', 'infinity', now() - interval '7 min')
"""
WAITS: Final = DUE.replace("- interval '7 min'", "+ interval '1 day'")
JUMPED: Final = "INSERT INTO tasks (name, started_at, error) VALUES ('clock', now(), '2026-01-31 03:00')"
REASONS: Final = {
    "waits": (
        f"{JUMPED} ON CONFLICT (name) DO UPDATE SET started_at = now()",
        "UPDATE tasks SET started_at = now() - interval '25 hours' WHERE name = 'clock'",
    ),
    "goes on": (
        "UPDATE tasks SET lease_until = 'infinity' WHERE name = 'retention'",
        "UPDATE tasks SET lease_until = '-infinity' WHERE name = 'retention'",
    ),
}
FAILED: Final = """
INSERT INTO tasks (name, owner, lease_until, finished_at, error)
VALUES ('retention', 'another process', 'infinity', '2026-01-31 03:00Z', 'it could not: see what')
"""
PROBLEMS: Final = {
    "dead_letters": (
        [LETTER] * 3,
        "UPDATE dead_letters SET resolved_at = now(), resolution = 'discarded'",
        "Warning: handler mailer has given up on 3 events with ValueError: receiver dead-letters list",
    ),
    "dead_letters of a handler that was removed": (
        [LETTER, "DELETE FROM cursors"],
        "UPDATE dead_letters SET resolved_at = now(), resolution = 'discarded'",
        "Warning: handler mailer has given up on 1 event with ValueError: receiver dead-letters list",
    ),
    "quarantine": (
        [QUARANTINED] * 2,
        "UPDATE quarantine SET resolved_at = now(), resolution = 'discarded'",
        "Warning: 2 entries of source shop in quarantine (unreadable items): receiver quarantine list",
    ),
    "breaker": (
        [BREAKER],
        "UPDATE handlers SET breaker_since = NULL",
        "CRITICAL: handler mailer fails for everything and is held since",
    ),
    "backlog": (
        ["UPDATE events SET received_at = received_at - interval '7 min'"],
        "UPDATE cursors SET txid = (txid::text::bigint + 1000000)::text::xid8",
        "Warning: handler mailer is 7 minutes behind (2 events), and no process runs it",
    ),
    "retention_failed": (
        [FAILED],
        "UPDATE tasks SET error = NULL, finished_at = now() WHERE name = 'retention'",
        "Warning: retention has failed since 2026-01-31 03:00 UTC (it could not: see what): receiver retention run",
    ),
    "a clock that may have jumped": (
        [JUMPED],
        "UPDATE tasks SET started_at = started_at - interval '1 day' WHERE name = 'clock'",
        "Warning: the database server's clock says 20",
    ),
    "retries": (
        [DUE],
        "DELETE FROM retries",
        "Warning: handler mailer is 7 minutes behind (1 event)",
    ),
    "events parked behind a failed one": (
        [PARKED, PARKED, WAITS],
        "DELETE FROM retries",
        "Warning: handler mailer is 7 minutes behind (2 events)",
    ),
}


@pytest.mark.parametrize("kind", PROBLEMS)
async def test_each_problem_is_told_once_and_its_end_too(
    database: str, tmp_path: Path, hook: AlertSite, kind: str
) -> None:
    """a problem of many events is one alert, which ends when the problem has been gone for a minute."""
    begin, end, text = PROBLEMS[kind]
    connection = await asyncpg.connect(database)
    await create_cursors(connection, ["mailer"])
    await store(connection, 2 if kind == "backlog" else 0)
    async with connection.transaction():
        for statement in begin:
            await connection.execute(statement)
    async with watching(database, hook, play("postmark", tmp_path)) as service:
        (opened,) = await hook.told(1)
        assert opened.text.startswith(text)
        await looks(service)
        await connection.execute(end)
        await looks(service)
        assert len(hook.notices) == 1  # it may come back at once
        await connection.execute("UPDATE alerts SET last_seen = last_seen - interval '61 s'")
        await hook.told(2)
        await looks(service)
    await connection.close()
    assert len(hook.notices) == 2
    assert hook.texts[1].startswith("Resolved: after ")
    assert "a@b.test" not in opened.body.decode()


async def test_another_kind_of_error_is_told_at_once(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """dead letters by another error and another kind of quarantine are told while those of before are open; more of the
    same are not, and each kind ends by itself
    """
    connection = await asyncpg.connect(database)
    await create_cursors(connection, ["mailer"])
    await connection.execute(LETTER)
    await connection.execute(QUARANTINED)
    async with watching(database, hook, play("postmark", tmp_path)) as service:
        await hook.told(2)
        for another in (LETTER, QUARANTINED, LETTER.replace("Value", "Key"), QUARANTINED.replace("'item'", "'stale'")):
            await connection.execute(another)
        await hook.told(4)
        await looks(service)
        await noted(connection)
        await connection.execute("UPDATE dead_letters SET resolved_at = now(), resolution = 'retried' WHERE id = 3")
        await looks(service)  # one that has seen it still may be under way
        await time_passes(connection, 2)
        await hook.told(5)
        await looks(service)
    await connection.close()
    keys = [notice.value["data"]["key"] for notice in hook.notices]
    assert sorted(keys[:2]) == ["dead_letters:mailer:ValueError", "quarantine:shop:item"]
    assert sorted(keys[2:4]) == ["dead_letters:mailer:KeyError", "quarantine:shop:stale"]
    assert keys[4:] == ["dead_letters:mailer:KeyError"]


async def test_retention_that_is_not_begun_is_told(
    database: str, tmp_path: Path, hook: AlertSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """where maintenance fails before it comes to retention, so that no error of it is known, that is told all the same,
    but not just after a start
    """
    connection = await asyncpg.connect(database)
    await connection.execute("INSERT INTO tasks (name, finished_at) VALUES ('retention', now() - interval '37 hours')")
    async with watching(database, hook, play("postmark", tmp_path)) as service:
        await looks(service)
        assert hook.notices == []
        monkeypatch.setattr(alarm, "NEGLECTED", 1)
        (opened,) = await hook.told(1)
        await noted(connection)
        await connection.execute("UPDATE tasks SET finished_at = now() WHERE name = 'retention'")
        await looks(service)  # one that has seen it still may be under way
        await time_passes(connection, 2)
        await hook.told(2)
    await connection.close()
    assert "it was not begun" in opened.text


@pytest.mark.parametrize("reason", ["waits", "goes on"])
async def test_retention_that_waits_or_goes_on_has_not_failed(
    database: str, tmp_path: Path, hook: AlertSite, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """what is long overdue, as after a jump of the server's clock, is not told as a failure while retention waits or
    goes on; once it is told it lasts, also over a restart, until all was done
    """
    monkeypatch.setattr(alarm, "NEGLECTED", 1)
    monkeypatch.setattr(maintenance, "FIRST", (3600.0, 3600.0))
    begin, end = REASONS[reason]
    connection = await asyncpg.connect(database)
    await connection.execute("INSERT INTO tasks (name, finished_at) VALUES ('retention', now() - interval '60 days')")
    await connection.execute(begin)
    async with watching(database, hook, play("postmark", tmp_path)) as service:
        await looks(service, 5)
        assert await connection.fetch("SELECT FROM alerts WHERE kind = 'retention_failed'") == []
        await connection.execute(end)
        await value(connection, "SELECT count(*) FROM alerts WHERE kind = 'retention_failed'", 1)
        await connection.execute(begin)
        await looks(service)
    monkeypatch.setattr(alarm, "NEGLECTED", 1000)
    async with watching(database, hook, play("postmark", tmp_path)) as service:
        await time_passes(connection, 2)
        await looks(service, 5)
        assert await connection.fetchval("SELECT resolved_at FROM alerts WHERE kind = 'retention_failed'") is None
    await connection.close()


async def test_missing_partitions_are_told(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """that partitions of the days ahead are missing, since making them fails, is a critical alert."""
    connection = await asyncpg.connect(database)
    async with watching(database, hook, play("postmark", tmp_path)):
        for partition in await list_partitions(connection):
            await connection.execute(f"ALTER TABLE events DETACH PARTITION {partition.name}")
        (opened,) = await hook.told(1)
    await connection.close()
    assert opened.text.startswith("CRITICAL: there is no partition for events after ")


async def test_a_handler_that_retention_waits_for_is_told(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """a handler that has used up half of the time that events are kept is told before retention has to wait for it."""
    connection = await asyncpg.connect(database)
    await create_cursors(connection, ["mailer"])
    await store(connection, 1)
    await connection.execute("UPDATE cursors SET read_from = read_from - interval '1 day'")
    await connection.execute("UPDATE events SET received_at = received_at - interval '13 hours'")
    keep = RetentionSettings.model_validate({"events": "1d"})
    async with watching(database, hook, play("postmark", tmp_path), keep=keep, backlog_after="2d") as service:
        (opened,) = await hook.told(1)
        await looks(service)
    await connection.close()
    assert [notice.value["data"]["key"] for notice in hook.notices] == ["retention:mailer"]
    assert "still needs an event" in opened.text


async def test_a_replay_that_nobody_finishes_is_told(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """a replay that is unfinished after a day is told, with what to do, and resolved when it is cancelled."""
    connection = await asyncpg.connect(database)
    id_ = await start_replay(connection, "mailer", Selection(), Accepts(), side_effects=False, events=1, by="ann")
    await connection.execute("UPDATE replays SET started_at = now() - interval '25 hours'")
    async with watching(database, hook, play("postmark", tmp_path)) as service:
        (opened,) = await hook.told(1)
        await noted(connection)
        await cancel_replay(connection, id_)
        await looks(service)  # one that has seen it still may be under way
        await time_passes(connection, 2)
        await hook.told(2)
    await connection.close()
    assert f"`receiver replay resume {id_}`" in opened.text
    assert [one.value["data"]["key"] for one in hook.notices] == [f"replay:{id_}"] * 2


WORKER: Final = """
INSERT INTO workers (id, name, handlers, expires_at)
VALUES (gen_random_uuid(), 'w', $1::text[], now() + interval '1h')
"""


async def test_a_paused_handler_is_not_behind(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """unread events are no problem of a handler that somebody paused; they are one where other handlers are run, and
    none of the processes has this one: it says how to end that
    """
    connection = await asyncpg.connect(database)
    await create_cursors(connection, ["nobodys", "paused", "runs"])
    await store(connection, 2)
    await connection.execute("UPDATE events SET received_at = received_at - interval '7 min'")
    await connection.execute("UPDATE handlers SET state = 'paused' WHERE name = 'paused'")
    await connection.execute(WORKER, ["runs", "paused"])
    async with watching(database, hook, play("postmark", tmp_path)) as service:
        await hook.told(2)
        await looks(service)
    await connection.close()
    assert sorted(hook.texts) == [
        (
            "Warning: handler nobodys is 7 minutes behind (2 events), and none of the processes runs it:"
            " start one that does, or receiver handlers remove nobodys"
        ),
        "Warning: handler runs is 7 minutes behind (2 events)",
    ]


async def test_a_backlog_is_not_over_because_nobody_is_left(
    database: str, tmp_path: Path, hook: AlertSite, receiver: Receiver
) -> None:
    """a handler that lost its workers stays behind, whether others are run or not, until it is removed"""
    connection = await asyncpg.connect(database)
    await create_cursors(connection, ["writer"])
    await store(connection, 2)
    await connection.execute("UPDATE events SET received_at = received_at - interval '20 min'")
    async with watching(database, hook, play("postmark", tmp_path)) as service:
        await hook.told(1)
        await connection.execute(WORKER, ["second"])
        await looks(service)
        await time_passes(connection, 2)
        await looks(service)
        assert len(hook.notices) == 1
        assert await service.count("alerts WHERE resolved_at IS NULL AND text LIKE '%none of the processes%'") == 1
        assert (await receiver("handlers", "remove", "writer", "--yes")).code == 0
        await looks(service)  # one that has seen it still may be under way
        await time_passes(connection, 2)
        await hook.told(2)
    await connection.close()
    assert hook.texts[1] == "Resolved: handler writer was removed"


ENDS: Final = {
    "paused": (
        ["UPDATE handlers SET state = 'paused'"],
        "Resolved: handler writer was paused, with 2 events waiting",
    ),
    "nobody's any more": (
        ["UPDATE workers SET handlers = '{second}'"],
        "Resolved: no process runs handler writer any more",
    ),
}


@pytest.mark.parametrize("how", ENDS)
async def test_a_problem_that_ends_another_way_is_not_called_over(
    database: str, tmp_path: Path, hook: AlertSite, how: str
) -> None:
    """the end of a backlog or an open breaker says so where the handler was paused, or lost its workers, instead"""
    ends, text = ENDS[how]
    connection = await asyncpg.connect(database)
    await create_cursors(connection, ["writer"])
    await store(connection, 2)
    await connection.execute(WORKER, ["writer"])
    if how == "paused":
        await connection.execute("UPDATE events SET received_at = received_at - interval '20 min'")
    else:
        await connection.execute(BREAKER.replace("mailer", "writer"))
    async with watching(database, hook, play("postmark", tmp_path)) as service:
        await hook.told(1)
        for statement in ends:
            await connection.execute(statement)
        await looks(service)
        await time_passes(connection, 2)
        await hook.told(2)
    await connection.close()
    assert hook.texts[1] == text


# Telling -----------------------------------------------------------------------------------------------------------


async def test_a_webhook_that_is_down_is_tried_again(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """while the URL fails the notice is tried again, later each time, and arrives once when it is up."""
    connection = await asyncpg.connect(database)
    await connection.execute(QUARANTINED)
    hook.status = 503
    async with watching(database, hook, play("postmark", tmp_path)) as service:

        async def attempts(least: int) -> bool:
            return bool(await connection.fetchval("SELECT attempts >= $1 FROM alerts", least))

        await until(lambda: attempts(2))
        for so_far, least, most in ((10, 40, 60), (30, 800, 900)):
            await connection.execute("UPDATE alerts SET attempts = $1, next_at = '-infinity'", so_far)
            await until(lambda so_far=so_far: attempts(so_far + 1))  # type: ignore[misc]  # of an int
            wait = await connection.fetchval("SELECT extract(epoch FROM next_at - now()) FROM alerts")
            assert least < wait <= most
        hook.status = 204
        await looks(service)
        assert hook.notices == []  # it is not yet time
        await connection.execute("UPDATE alerts SET next_at = '-infinity'")
        await hook.told(1)
        await looks(service)
    await connection.close()
    assert len(hook.notices) == 1
    assert {one.headers["webhook-id"] for one in (*hook.refused, *hook.notices)} == {"alert-1-opened"}


async def test_an_open_problem_is_told_again_after_a_while(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """an open problem is told again after repeat_after, and not before."""
    connection = await asyncpg.connect(database)
    await connection.execute(QUARANTINED)
    async with watching(database, hook, play("postmark", tmp_path), repeat_after="6h") as service:
        await hook.told(1)
        await noted(connection)
        await time_passes(connection, 350)
        await looks(service)
        assert len(hook.notices) == 1
        await time_passes(connection, 20)
        await hook.told(2)
        await noted(connection)
        await looks(service)
    await connection.close()
    assert [one.value["type"] for one in hook.notices] == ["alert.opened", "alert.still_open"]


async def unread(connection: asyncpg.Connection, hours: int) -> None:
    """The one event that `mailer` has not read came so long ago; it is kept for a day."""
    await connection.execute("UPDATE cursors SET read_from = now() - interval '1 day'")
    await connection.execute("UPDATE events SET received_at = now() - $1 * interval '1 hour'", hours)


A_DAY: Final = RetentionSettings.model_validate({"events": "1d"})


async def test_what_gets_worse_is_told_at_once(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """a problem that was told as a warning and is critical now is told again, once, long before repeat_after."""
    connection = await asyncpg.connect(database)
    await create_cursors(connection, ["mailer"])
    await store(connection, 1)
    await unread(connection, 13)
    async with watching(
        database, hook, play("postmark", tmp_path), keep=A_DAY, backlog_after="2d", repeat_after="24h"
    ) as service:
        await hook.told(1)
        await noted(connection)
        await unread(connection, 20)
        opened, escalated = await hook.told(2)
        await value(connection, "SELECT notified_severity FROM alerts", expected="critical")
        await looks(service)
    await connection.close()
    assert len(hook.notices) == 2
    assert opened.text.startswith("Warning: ")
    assert escalated.text.startswith("CRITICAL: ")
    assert [one.value["type"] for one in hook.notices] == ["alert.opened", "alert.escalated"]
    assert opened.headers["webhook-id"] != escalated.headers["webhook-id"]


async def test_whoever_was_told_is_told_the_end(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """a critical problem that ends as a warning is resolved also for those who want to hear of critical ones alone."""
    connection = await asyncpg.connect(database)
    await create_cursors(connection, ["mailer"])
    await store(connection, 1)
    await unread(connection, 20)
    async with watching(
        database, hook, play("postmark", tmp_path), keep=A_DAY, backlog_after="2d", min_severity="critical"
    ):
        await hook.told(1)
        await noted(connection)
        await unread(connection, 13)
        await value(connection, "SELECT severity FROM alerts", expected="warning")
        await unread(connection, 0)
        await time_passes(connection, 2)
        await hook.told(2)
    await connection.close()
    assert [one.value["type"] for one in hook.notices] == ["alert.opened", "alert.resolved"]


async def test_only_what_is_severe_enough_is_told(
    database: str, tmp_path: Path, hook: AlertSite, receiver: Receiver
) -> None:
    """with min_severity = "critical" warnings are listed but not told."""
    connection = await asyncpg.connect(database)
    await create_cursors(connection, ["mailer"])
    await connection.execute(QUARANTINED)
    await connection.execute(BREAKER)
    async with watching(database, hook, play("postmark", tmp_path), min_severity="critical") as service:
        await hook.told(1)
        await looks(service)
    await connection.close()
    assert [one.value["data"]["kind"] for one in hook.notices] == ["breaker"]
    listed = await receiver("alerts", "--json")
    assert {(row["kind"], row["notified_at"] is None) for row in listed.rows} == {
        ("breaker", False),
        ("quarantine", True),
    }


async def test_without_a_url_alerts_are_logged_and_listed(database: str, tmp_path: Path, receiver: Receiver) -> None:
    """without [alerts] url problems are logged, and `receiver alerts` lists them, also those that have ended."""
    async with site(tmp_path, database, play("postmark", tmp_path)) as running_site:
        connection = await asyncpg.connect(database)
        await connection.execute(QUARANTINED)
        process = running_site.process("serve", "--no-dispatch")
        await process.start()

        async def listed() -> bool:
            return bool((await receiver("alerts", "--json")).rows)

        await until(listed)
        assert "alert_opened" in process.log()
    assert "2 entries" not in (shown := await receiver("alerts")).out
    assert "1 entry of source shop in quarantine" in shown.out
    await connection.execute("UPDATE alerts SET resolved_at = now(), resolution = 'it is over'")
    await connection.close()
    assert "it is over" in (await receiver("alerts")).out
    assert (await receiver("alerts", "--open")).err == "no problem is open\n"


async def test_alerts_are_kept_as_long_as_retention_says(database: str, tmp_path: Path, hook: AlertSite) -> None:
    """what has ended stays as long as `[retention] alerts` says: looking for problems removes nothing."""
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO alerts (key, kind, severity, text, resolved_at, resolution)"
        " VALUES ('breaker:mailer', 'breaker', 'critical', 'held', now() - interval '100 days', 'over')"
    )
    keep = RetentionSettings.model_validate({"alerts": "forever"})
    async with watching(database, hook, play("postmark", tmp_path), keep=keep) as service:
        await looks(service)
        assert await service.count("alerts") == 1
    await connection.close()


async def test_a_trial(receiver: Receiver, hook: AlertSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`receiver alerts test` sends a signed trial, or says what is wrong, without the URL, which is a secret."""
    ended = await receiver("alerts", "test")
    assert ended.code == 2
    assert "alerts.url: is missing" in ended.err
    (tmp_path / "secret").write_text(hook.secret)
    monkeypatch.setenv("RECEIVER_ALERTS__URL", hook.url)
    monkeypatch.setenv("RECEIVER_ALERTS__SECRET_FILE", str(tmp_path / "secret"))
    ended = await receiver("alerts", "test")
    assert ended.code == 2
    assert "https" in ended.err
    monkeypatch.setenv("RECEIVER_ALERTS__ALLOW_PRIVATE", "true")
    ended = await receiver("alerts", "test")
    assert (ended.code, ended.out) == (0, "sent: 127.0.0.1 has accepted it\n")
    (notice,) = hook.notices
    assert Webhook(hook.secret).verify(notice.body, notice.headers)["text"] == notice.text
    assert notice.value["type"] == "alert.test"
    hook.status = 500
    ended = await receiver("alerts", "test")
    assert ended.code == 1
    assert "127.0.0.1 answered 500" in ended.err
    assert "cAnArY" not in ended.out + ended.err


async def test_a_private_address_is_not_called_unless_allowed(
    receiver: Receiver, hook: AlertSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """alerts go out by the guarded client: a private address is refused unless the settings allow it."""
    monkeypatch.setenv("RECEIVER_ALERTS__URL", f"https://127.0.0.1:{hook.port}/")
    ended = await receiver("alerts", "test")
    assert ended.code == 1
    assert "not a public address" in ended.err
    assert hook.notices == []


WRONG: Final[Sequence[tuple[dict[str, str], str]]] = [
    ({"RECEIVER_ALERTS__BACKLOG_AFTER": "5 fortnights"}, "alerts.backlog_after"),
    ({"RECEIVER_ALERTS__SECRET": "cAnArY"}, "alerts.secret"),
    ({"RECEIVER_ALERTS__URL": "cAnArY"}, "alerts.url"),
    ({"RECEIVER_ALERTS__MIN_SEVERITY": "info"}, "alerts.min_severity"),
    ({"RECEIVER_ALERTS__URL_FILE": "/nowhere"}, "alerts.url_file"),
    ({"RECEIVER_SOURCES__SHOP__EXPECT_EVERY": "soon"}, "sources.shop.expect_every"),
]


@pytest.mark.parametrize(("environ", "key"), WRONG)
async def test_wrong_settings(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], key: str
) -> None:
    """a wrong setting of alerts stops the start and is named, with what a right one looks like, and never shown."""
    monkeypatch.setenv("RECEIVER_SOURCES__SHOP__PROVIDER", "postmark")
    monkeypatch.setenv("RECEIVER_SOURCES__SHOP__PASSWORD", "Zz9-postmark-password-of-the-test")
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    ended = await receiver("check")
    assert ended.code == 2
    assert f"{key}" in ended.err
    assert "cAnArY" not in ended.err
