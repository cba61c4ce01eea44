"""The outbox while something is wrong: a database that goes away, a server that fails, limits, and what comes first."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from receiver.sending_settings import SendingSettings
from receiver.store import outbox
from tests.smtp_peer import DROP, smtp_peer
from tests.test_sending import Sending
from tests.workers import true, value

SENT = "SELECT count(*) FROM sends WHERE state = 'sent'"


@pytest.fixture
async def sending(database: str) -> AsyncIterator[Sending]:
    sql = await asyncpg.connect(database)
    try:
        async with smtp_peer() as peer:
            yield Sending(database, sql, peer)
    finally:
        await sql.close()


async def test_an_outcome_waits_for_the_database(sending: Sending) -> None:
    """what the server has taken while the database could not be written to is sent, and sent once"""
    await sending.queue("receipt")
    sender = sending.sender()
    # The first statement that stores an outcome fails until it is undone.
    await sending.sql.execute("""
        CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'away'; END $$;
        CREATE TRIGGER away BEFORE UPDATE ON send_attempts FOR EACH ROW EXECUTE FUNCTION away()
    """)
    async with sending.running(sender):
        await true(lambda: sender.trouble() is not None)
        assert len(sending.peer.taken) == 1
        await sending.sql.execute("DROP TRIGGER away ON send_attempts")
        await sending.state("receipt", "sent")
    assert len(sending.peer.taken) == 1


async def test_a_reply_that_no_text_can_hold(sending: Sending) -> None:
    """what a server has taken is sent, also where its reply has a character in it that cannot be stored"""
    sending.peer.data = deque(["250 2.0.0 taken\x00as q1"])
    await sending.queue("receipt")
    async with sending.running(sending.sender()):
        await sending.state("receipt", "sent")
    assert await sending.sql.fetchval("SELECT detail FROM sends") == "2.0.0 taken\ufffdas q1"


async def test_an_hour_that_is_full_uses_up_no_day(sending: Sending) -> None:
    """messages that wait for the next hour do not count for the day"""
    for number in range(6):
        await sending.queue(f"{number}")
    async with sending.running(sending.sender(per_hour=2, per_day=10)):
        await value(sending.sql, "SELECT count(*) FROM sends WHERE reason = 'rate_limit' AND state = 'queued'", 4)
        await value(sending.sql, SENT, 2)
    assert await sending.sql.fetchval("SELECT used FROM send_budgets WHERE per = 'day'") == 2


async def test_what_was_in_flight_makes_the_rest_no_longer(sending: Sending) -> None:
    """twenty that fail at once count as the five that make the account rest, and no message is given up for it"""
    sending.peer.mail = deque([DROP])
    for number in range(20):
        await sending.queue(f"{number}")
    rules = SendingSettings(concurrency=20)
    async with sending.running(sending.sender(rules=rules)):
        await value(sending.sql, "SELECT count(*) FROM sends WHERE state = 'queued' AND attempts > 0", 20)
    row = await sending.sql.fetchrow("SELECT failures, paused_until - paused_at AS rest FROM send_accounts")
    assert row is not None
    assert (row["failures"], row["rest"] < timedelta(seconds=40)) == (5, True)


async def test_a_busy_account_uses_up_no_attempts(sending: Sending) -> None:
    """however often the server says that we send too much, no message fails for it"""
    sending.peer.mail = deque(["421 4.7.0 too many"])
    await sending.queue("receipt")
    async with sending.running(sending.sender(rules=SendingSettings(max_attempts=1))):
        await value(sending.sql, "SELECT attempts FROM sends", 1)
        await sending.state("receipt", "queued")


async def test_transactional_mail_comes_first(sending: Sending) -> None:
    """a password reset does not stand behind a newsletter that was queued before it"""
    people = [f"to{number}@example.com" for number in range(5)]
    await sending.subscribed(*people)
    for one in people:
        await sending.queue(one, to=one, stream="marketing", topic="news")
    await sending.queue("reset")
    async with sending.running(sending.sender(rules=SendingSettings(concurrency=1))):
        await value(sending.sql, SENT, 6)
    assert sending.subjects[0] == "reset"


async def test_what_made_it_pointless_before_it_was_queued(sending: Sending) -> None:
    """what happened between the event and its handler counts; the same click twice, or a scanner's, does not"""
    insert = """
        INSERT INTO events (id, occurred_at, type, source, provider, provider_type, recipient, message_id, tags, shard)
        VALUES ($1, now() - $2 * interval '1 s', 'clicked', 's', 'p', 'click', $3, $4, $5, 1)
    """
    for name, message, tag in (("ann", "m2", "offer"), ("bob", "m1", "x"), ("cid", "m2", "offer")):
        trigger, other = uuid4(), uuid4()
        await sending.sql.execute(insert, trigger, 100, f"{name}@example.com", "m1", ["x"])
        await sending.sql.execute(insert, other, 50, f"{name}@example.com", message, [tag])
        if name == "cid":
            await sending.sql.execute(
                "INSERT INTO click_verdicts (event_id, actor, score, reasons, version) "
                "VALUES ($1, 'machine', 90, '{}', 1)",
                other,
            )
        await sending.queue(name, to=f"{name}@example.com", cancel_on=["clicked:offer", "clicked:x"], event_id=trigger)
    async with sending.running(sending.sender()):
        await sending.state("ann", "skipped")
        await sending.state("bob", "sent")
        await sending.state("cid", "sent")


async def test_a_rest_does_not_hide_who_has_paused(sending: Sending) -> None:
    """a message that was in flight and finds the server busy leaves the pause of an operator as it was"""
    await outbox.pause(sending.sql, "main", None, by="alice", reason="an incident")
    await outbox.pause(sending.sql, "main", datetime.now(UTC) + timedelta(hours=1), by=None, reason="busy")
    row = await sending.sql.fetchrow("SELECT paused_until, paused_by, reason FROM send_accounts")
    assert row is not None
    assert tuple(row) == (None, "alice", "an incident")
