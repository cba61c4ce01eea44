"""Reading stored events and the quarantine again: what changes, what never does, and who sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn
from uuid import UUID

import asyncpg
import pytest

from receiver import Context, Event, Handler, handler
from receiver.errors import Unreadable
from receiver.event import EventType
from receiver.faults import toml_value
from receiver.ingest.normalize import rows_of
from receiver.ingest.reread import Outcome, reread
from receiver.providers.sendgrid import SendGrid
from receiver.sources import Source
from receiver.store import wire
from receiver.store.intake import write
from receiver.store.reprocessing import Selection, next_events, place_of
from tests.cli import Receiver
from tests.provider_fixtures import fixtures, folder, folder_names, items_of_fixture
from tests.service import PRIVACY, Played, play, running
from tests.test_receiving import batch, signed
from tests.workers import all_read, prepared, value
from tests.workers import running as working

BOUNCED: Final = {"reason": "550 5.1.1 no such user"}


@pytest.fixture
def shop(tmp_path: Path) -> Played:
    return play("sendgrid", tmp_path, name="shop")


def configure(directory: Path, shop: Played, types: Mapping[str, str] | None = None, **extra: Any) -> None:
    """A `receiver.toml` with the source, and an operator's own table of words."""
    given = {"provider": "sendgrid", "public_key": shop.source.settings.model_dump()["public_key"], **extra}
    lines = ["[sources.shop]", *(f"{name} = {toml_value(one)}" for name, one in given.items())]
    lines += ["[sources.shop.types]", *(f'"{word}" = "{type_}"' for word, type_ in (types or {}).items())]
    (directory / "receiver.toml").write_text("\n".join(lines))


async def post(database: str, shop: Played, *items: Mapping[str, Any], status: int = 200) -> None:
    async with running(database, shop) as service:
        (one,) = shop.post_items(items)
        assert (await service.post("shop", one)).status_code == status


def unheard(number: int = 0, word: str = "brand_new") -> dict[str, Any]:
    return batch(1, word=word, run=f"{word}{number}")[0] | BOUNCED


class Seen:
    """What a handler got: (id, type, replaying)."""

    def __init__(self) -> None:
        self.events: list[tuple[UUID, str, bool]] = []

    def handler(self, name: str) -> Handler:
        async def note(event: Event, ctx: Context) -> None:
            self.events.append((event.id, event.type, ctx.replaying))

        return handler(name=name)(note)


@asynccontextmanager
async def handlers(database: str, sql: asyncpg.Connection) -> AsyncIterator[list[Seen]]:
    """Two handlers that have passed everything that is stored."""
    both = [Seen(), Seen()]
    found = [one.handler(f"notes{number}") for number, one in enumerate(both)]
    await prepared(sql, found)
    async with working(database, *found):
        yield both


async def test_a_word_that_was_mapped_since(
    database: str, sql: asyncpg.Connection, receiver: Receiver, shop: Played, tmp_path: Path
) -> None:
    """an unknown event becomes what its word now means, in place and unseen by handlers; a dry run only says so"""
    async with handlers(database, sql) as (seen, _):
        await post(database, shop, unheard(), *batch(2))
        await all_read(sql)
        before = await sql.fetchrow("SELECT * FROM events WHERE type = 'unknown'")
        assert before is not None
        configure(tmp_path, shop, {"brand_new": "bounced"})

        dry = await receiver("reprocess", "--dry-run", "--json")
        expected = {
            "part": "events", "source": "shop", "word": "brand_new", "was": "unknown", "becomes": "bounced",
            "outcome": "changed", "count": 1,
        }  # fmt: skip
        assert (dry.code, dry.rows) == (0, [expected])
        assert await sql.fetchval("SELECT count(*) FROM events WHERE type = 'unknown'") == 1
        assert "nobody to ask" in (await receiver("reprocess")).err

        assert (await receiver("reprocess", "--yes", "--json")).rows == [expected]
        after = await sql.fetchrow("SELECT * FROM events WHERE id = $1", before["id"])
        assert after is not None
        assert {name for name in after.keys() if after[name] != before[name]} == {  # noqa: SIM118 - a Record is no dict
            "type", "bounce_category", "bounce_class", "smtp_code", "enhanced_code", "classifier_version"
        }  # fmt: skip
        assert (after["type"], after["bounce_category"]) == ("bounced", "hard")
        assert await sql.fetchval("SELECT subject FROM audit_log WHERE action = 'reprocess'") == "all sources"

        await post(database, shop, *batch(1, run="later"))
        await all_read(sql)
        assert await sql.fetchval("SELECT count(*) FROM retries") == 0
        assert [type_ for id_, type_, _ in seen.events if id_ == before["id"]] == ["unknown"]
        assert "nothing to change" in (await receiver("reprocess")).err


async def test_dispatch(
    database: str, sql: asyncpg.Connection, receiver: Receiver, shop: Played, tmp_path: Path
) -> None:
    """--dispatch hands each changed event once to each handler that had passed it, as a replay does"""
    async with handlers(database, sql) as both:
        await post(database, shop, unheard(1), unheard(2), unheard(3, "other"))
        await all_read(sql)
        configure(tmp_path, shop, {"brand_new": "complained"})
        ended = await receiver("reprocess", "--dispatch", "--yes")
        assert "'other' is still unknown: say what it means in [sources.shop.types]" in ended.err
        assert (ended.code, "handed them over 4 times" in ended.err) == (0, True), ended.err
        await value(sql, "SELECT count(*) FROM retries", 0)
        ids = {row["id"] for row in await sql.fetch("SELECT id FROM events WHERE type = 'complained'")}
        await receiver("reprocess", "--dispatch", "--yes")
        await value(sql, "SELECT count(*) FROM retries", 0)
    for seen in both:
        again = [(id_, type_) for id_, type_, replaying in seen.events if replaying]
        assert sorted(again) == sorted((id_, "complained") for id_ in ids)
        assert len(seen.events) == 5


async def test_what_is_chosen(
    database: str, sql: asyncpg.Connection, receiver: Receiver, shop: Played, tmp_path: Path
) -> None:
    """--source, --type, --since and --until choose; what has lost its raw or its source is told and left alone"""
    await post(database, shop, unheard(1), unheard(2), *batch(1, word="open", run="o"))
    ids = [row[0] for row in await sql.fetch("SELECT id FROM events WHERE type = 'unknown' ORDER BY id")]
    configure(tmp_path, shop, {"brand_new": "bounced", "open": "clicked"})
    for options, counts in (
        (("--source", "other"), []),
        (("--until", "1h"), []),
        (("--since", "1h", "--type", "opened"), [("clicked", "changed", 1)]),
        (("--quarantine",), []),
        (("--events",), [("bounced", "changed", 2)]),
    ):
        rows = (await receiver("reprocess", *options, "--dry-run", "--json")).rows
        assert [(row["becomes"], row["outcome"], row["count"]) for row in rows] == counts, options
    await sql.execute("UPDATE events SET raw = NULL WHERE id = $1", ids[0])
    await sql.execute("UPDATE events SET source = 'gone' WHERE id = $1", ids[1])
    rows = (await receiver("reprocess", "--yes", "--json")).rows
    assert {row["outcome"] for row in rows} == {Outcome.NO_RAW, Outcome.NO_SOURCE}
    assert await sql.fetchval("SELECT count(*) FROM events WHERE type = 'unknown'") == 2


async def test_one_that_does_not_fit(
    database: str, sql: asyncpg.Connection, receiver: Receiver, shop: Played, tmp_path: Path
) -> None:
    """an event that Postgres refuses costs its neighbours nothing, and is told"""
    await post(database, shop, unheard(1), unheard(2), unheard(3))
    id_ = await sql.fetchval("SELECT id FROM events LIMIT 1")
    await sql.execute(f"ALTER TABLE events ADD CHECK (id <> '{id_}' OR type = 'unknown')")
    configure(tmp_path, shop, {"brand_new": "bounced"})
    rows = (await receiver("reprocess", "--yes", "--json")).rows
    assert {(row["outcome"], row["count"]) for row in rows} == {("changed", 2), (Outcome.UNFIT, 1)}
    assert await sql.fetchval("SELECT count(*) FROM events WHERE type = 'bounced'") == 2


async def test_stopping(
    database: str, sql: asyncpg.Connection, receiver: Receiver, shop: Played, tmp_path: Path
) -> None:
    """Ctrl-C leaves whole transactions behind, and the same command goes on from there"""
    await post(database, shop, *(unheard(number) for number in range(700)))
    configure(tmp_path, shop, {"brand_new": "bounced"})
    changed = "SELECT count(*) FROM events WHERE type = 'bounced'"
    last = "SELECT FROM events WHERE id = (SELECT id FROM events ORDER BY shard DESC, position DESC LIMIT 1) FOR UPDATE"
    holder = await asyncpg.connect(database)
    try:
        async with holder.transaction():
            await holder.execute(last)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "receiver", "reprocess", "--yes"),
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
                stderr=asyncio.subprocess.PIPE,
            )
            await value(sql, changed, 500)
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
            assert (process.returncode, b"say the same again" in err) == (130, True), err
    finally:
        await holder.close()
    assert await sql.fetchval(changed) == 500
    assert (await receiver("reprocess", "--yes")).code == 0
    assert await sql.fetchval(changed) == 700


async def test_every_provider_reads_its_own_raw(sql: asyncpg.Connection) -> None:
    """what is stored of every recorded request of every provider reads as the same event again, from its row alone"""
    await wire.prepare(sql)
    sources = {name: _source_of(name) for name in folder_names()}
    for name, source in sources.items():
        for fixture in fixtures(name):
            items = await items_of_fixture(fixture)
            readings = [(item, reading) for item in items for reading in source.provider.read(item)]
            await write(sql, rows_of(source, readings, folder(name).now), (), lock_timeout=2000, privacy=PRIVACY)
    which, place = Selection(types=list(EventType)), None
    seen: dict[str, set[str]] = {}
    while True:
        async with sql.transaction():
            rows = await next_events(sql, which, place, lock=False)
        for row in rows:
            found = reread(sources, dict(row), PRIVACY)
            seen.setdefault(row["source"], set()).add(found.outcome)
            assert found.outcome is Outcome.SAME, (found, row)
        if not rows:
            break
        place = place_of(rows[-1])
    assert seen.keys() == sources.keys()


def _source_of(name: str) -> Source:
    place = folder(name)
    settings = place.kind.Settings.model_validate({"provider": name, **place.settings})
    return Source(name=name, provider=place.provider(), settings=settings)


# Quarantine -------------------------------------------------------------------------------------------------------


async def test_items_in_quarantine(
    database: str,
    sql: asyncpg.Connection,
    receiver: Receiver,
    shop: Played,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """what a newer release can read leaves the quarantine as new events for handlers; the rest stays, and is told"""

    def unable(*_: object) -> NoReturn:
        raise Unreadable("not yet")

    items = batch(2)
    with monkeypatch.context() as older:
        older.setattr(SendGrid, "read", unable)
        async with running(database, shop) as service:
            (one,) = shop.post_items([*items, 7])
            assert (await service.post("shop", one)).status_code == 200
    await post(database, shop, items[0])  # the provider has sent it again meanwhile
    assert await sql.fetchval("SELECT count(*) FROM quarantine WHERE resolved_at IS NULL") == 3
    await sql.execute("UPDATE quarantine SET accepted_at = now() - interval '2 days'")
    await sql.execute("DELETE FROM event_ids")  # and that was long ago
    configure(tmp_path, shop)
    dry = (await receiver("reprocess", "--dry-run", "--json")).rows
    assert await sql.fetchval("SELECT count(*) FROM events") == 1
    async with handlers(database, sql) as (seen, _):
        rows = (await receiver("reprocess", "--yes", "--json")).rows
        await all_read(sql)
    assert rows == dry
    assert {(row["becomes"], row["outcome"], row["count"]) for row in rows} == {
        ("delivered", "stored", 1), ("delivered", "known already", 1), (None, "cannot be read", 1)
    }  # fmt: skip
    new = await sql.fetch("SELECT * FROM events ORDER BY position")
    assert [row["recipient"] for row in new] == ["user0@one.test", "user1@one.test"]
    assert new[1]["received_at"] - new[1]["accepted_at"] > timedelta(days=1)
    assert [id_ for id_, _, _ in seen.events] == [new[1]["id"]]
    found = await sql.fetch("SELECT resolution, reason FROM quarantine ORDER BY id")
    assert [row["resolution"] for row in found] == ["released", "released", None]
    assert found[0]["reason"] == "reprocessed"


async def test_deliveries_in_quarantine(
    database: str, sql: asyncpg.Connection, receiver: Receiver, shop: Played, tmp_path: Path
) -> None:
    """a whole delivery is proven and read again as when it came: a stale one with the present tolerance"""
    strict = play("sendgrid", tmp_path, name="shop", tolerance=60)
    old = datetime.now(UTC) - timedelta(hours=30)
    stale = strict.source.provider.simulation.post(batch(1), strict.keys, old)[0]
    async with running(database, strict) as service:
        assert (await service.post("shop", stale)).status_code == 401
        assert (await service.post("shop", signed(strict, b"no json"))).status_code == 200
    configure(tmp_path, strict)
    rows = (await receiver("reprocess", "--quarantine", "--yes", "--json")).rows
    assert {(row["was"], row["outcome"]) for row in rows} == {("stale", Outcome.STALE), ("delivery", "cannot be read")}
    configure(tmp_path, strict, tolerance=7 * 86400)
    rows = (await receiver("reprocess", "--quarantine", "--yes", "--json")).rows
    assert {(row["was"], row["outcome"]) for row in rows} == {("stale", "stored"), ("delivery", "cannot be read")}
    assert await sql.fetchval("SELECT count(*) FROM events") == 1
    configure(tmp_path, shop)  # another key
    rows = (await receiver("reprocess", "--quarantine", "--yes", "--json")).rows
    assert [row["outcome"] for row in rows] == [Outcome.UNPROVEN]
