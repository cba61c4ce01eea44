"""Marketing mail waits while complaints and bounces are not dealt with: what keeps the suppression handler from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.log_events import store
from tests.outbox import Sending
from tests.smtp_peer import smtp_peer
from tests.workers import value

CURSORS = """
INSERT INTO cursors (handler, shard, gen, txid, position, read_from)
SELECT 'suppression', n, 1, pg_current_xact_id(), 0, now() - interval '1 hour' FROM generate_series(0, 63) n
"""
DEAD = """
INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error)
VALUES ('suppression', gen_random_uuid(), '{}', 'complained', 'shop', 8, 'ValueError', 'x')
"""


@pytest.fixture
async def sending(database: str) -> AsyncIterator[Sending]:
    sql = await asyncpg.connect(database)
    async with smtp_peer() as peer:
        yield Sending(database, sql, peer)
    await sql.close()


@pytest.mark.parametrize("why", ["has dead letters", "lags behind"])
async def test_marketing_waits_for_complaints(sending: Sending, why: str) -> None:
    """a complaint that the handler has failed with, or has not come to for a minute, holds marketing mail back"""
    await sending.subscribed("ann@example.com")
    await sending.sql.execute(CURSORS)
    if why == "lags behind":
        await store(sending.sql, type="complained", received_at=datetime.now(UTC) - timedelta(seconds=90))
    else:
        await sending.sql.execute(DEAD)
    await sending.queue("offer", stream="marketing", topic="news")
    await sending.queue("receipt", to="bob@example.com")
    async with sending.running(sending.sender()):
        await sending.state("receipt", "sent")
        await value(sending.sql, "SELECT reason FROM sends WHERE key = 'offer'", f"the handler suppression {why}")
    await sending.state("offer", "queued")


async def test_marketing_does_not_wait_for_what_is_done(sending: Sending) -> None:
    """a dead letter that somebody has dealt with, and an event of this moment, hold nothing back"""
    await sending.subscribed("ann@example.com")
    await sending.sql.execute(CURSORS)
    await sending.sql.execute(DEAD)
    await sending.sql.execute("UPDATE dead_letters SET resolved_at = now(), resolution = 'discarded'")
    await store(sending.sql, type="complained")
    await sending.queue("offer", stream="marketing", topic="news")
    async with sending.running(sending.sender()):
        await sending.state("offer", "sent")
