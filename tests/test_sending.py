"""The outbox: what is queued goes out once, to people who may be mailed, through a real SMTP server."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from receiver.sending.guard import Check, Facts, check, quiet_until
from receiver.sending_settings import SendingSettings
from receiver.store import outbox
from tests.outbox import NOW, STATE, Sending
from tests.workers import VAULT, true, value


async def test_what_is_queued_goes_out_once(sending: Sending) -> None:
    """a message is sent once by several senders, a key is queued once, and the row tells all of it"""
    first = await sending.queue("welcome:ann")
    assert first is not None
    assert await sending.queue("welcome:ann") is None
    async with sending.running(*(sending.sender() for _ in range(3))):
        await sending.state("welcome:ann", "sent")
        await sending.queue("later", delay=timedelta(hours=1))
        await sending.queue("after", to="bob@example.com")
        await sending.state("after", "sent")
    assert sorted(sending.subjects) == ["after", "welcome:ann"]
    assert sending.peer.taken[0]["Message-ID"] == f"<{first.hex}@shop.example>"
    row = await sending.sql.fetchrow(
        "SELECT outcome, attempt, checks->>0 AS first FROM send_attempts WHERE send_id = $1", first
    )
    assert row is not None
    assert (row["outcome"], row["attempt"], "switch" in row["first"]) == ("sent", 1, True)
    await sending.state("later", "queued")


async def test_who_must_not_be_mailed_is_not(sending: Sending) -> None:
    """marketing mail goes to those who have subscribed; each that is left out says why"""
    await sending.subscribed("ann@example.com", "sue@example.com")
    await sending.sql.execute(
        "INSERT INTO suppressions (address_hash, reason, scope, since, last_at, source) "
        "VALUES ($1, 'hard_bounce', 'all', now(), now(), 'test')",
        VAULT.address_hash("sue@example.com"),
    )
    for name in ("ann", "bob", "sue"):
        await sending.queue(name, to=f"{name}@example.com", stream="marketing", topic="news")
    await sending.queue("receipt", to="sue@example.com")
    await sending.queue("reset", to="bob@example.com")
    async with sending.running(sending.sender()):
        for key, state in (
            ("ann", "sent"),
            ("bob", "skipped"),
            ("sue", "skipped"),
            ("receipt", "skipped"),
            ("reset", "sent"),
        ):
            await sending.state(key, state)
    assert [await sending.why(key) for key in ("bob", "sue", "receipt")] == [
        "not_subscribed",
        "hard_bounce",
        "hard_bounce",
    ]
    assert sorted(sending.subjects) == ["ann", "reset"]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each sender has looked for transactional mail that is due; they look often."""
    found = Counter[str]()
    claim = outbox.claim

    async def looking(*args: Any, **options: Any) -> list[asyncpg.Record]:
        rows = await claim(*args, **options)
        found[options["worker"]] += options["stream"] == "transactional"
        return rows

    monkeypatch.setattr(outbox, "claim", looking)
    monkeypatch.setattr("receiver.sending.sender.POLL", 0.01)
    return found


async def test_the_kill_switch(sending: Sending, looks: Counter[str]) -> None:
    """while everything is paused nothing is sent, however often a sender looks; then it goes on"""
    await outbox.pause(sending.sql, outbox.EVERY, None, by="somebody", reason="an incident")
    await sending.queue("one")
    async with sending.running(sending.sender()):
        await true(lambda: looks.total() > 5)
        assert (len(sending.peer.asked), await sending.sql.fetchval(STATE, "one")) == (0, "queued")
        assert await outbox.resume(sending.sql, outbox.EVERY)
        await sending.state("one", "sent")


@pytest.mark.parametrize("stopped", ["switch", "broadcast"])
async def test_what_is_in_hand_is_stopped(sending: Sending, stopped: str) -> None:
    """a message that a sender has in hand, and has not begun with, goes back when everything or its broadcast stops"""
    await sending.queue("one")
    in_hand, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        in_hand.set()
        await go_on.wait()

    sending.before = wait
    if stopped == "broadcast":
        await sending.sql.execute("""
            INSERT INTO broadcasts (name, template, topic, expected, created_by) VALUES ('sale', 't', 'news', 1, 'ann');
            UPDATE sends SET broadcast_id = (SELECT id FROM broadcasts)
        """)
    async with sending.running(sending.sender()):
        await in_hand.wait()
        if stopped == "broadcast":
            await sending.sql.execute("UPDATE broadcasts SET state = 'paused'")
        else:
            await outbox.pause(sending.sql, outbox.EVERY, None, by="somebody", reason="an incident")
        go_on.set()
        await sending.state("one", "queued")
        said = {"broadcast": "its broadcast is paused", "switch": "an incident"}
        assert (await sending.why("one"), len(sending.peer.asked)) == (said[stopped], 0)


async def test_what_was_released_and_taken_again(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """who had a message in hand when it was released does not keep its process from renewing the lease it has now"""
    monkeypatch.setattr("receiver.sending.sender.RENEW", 0.05)
    gates, in_hand = [asyncio.Event(), asyncio.Event()], list[asyncio.Event]()

    async def wait() -> None:
        gate = gates[len(in_hand)]
        in_hand.append(gate)
        await gate.wait()

    sending.before = wait
    sending.peer.hold = asyncio.Event()
    sender = sending.sender()
    await sending.queue("one")
    async with sending.running(sender):
        await true(lambda: len(in_hand) == 1)
        await sending.sql.execute("UPDATE sends SET state = 'queued', worker = NULL, lease_until = NULL")
        await true(lambda: len(in_hand) == 2)
        gates[1].set()
        await value(sending.sql, "SELECT begun_at IS NOT NULL FROM sends", True)
        gates[0].set()
        await true(lambda: sender._busy["main"] == 1)
        await sending.sql.execute("UPDATE sends SET lease_until = now() + interval '30 s'")
        await value(sending.sql, "SELECT lease_until > now() + interval '45 s' FROM sends", True)
        sending.peer.hold.set()
        await sending.state("one", "sent")
    assert len(sending.peer.taken) == 1


async def test_a_lease_is_its_workers(sending: Sending) -> None:
    """who has lost a lease can neither begin with, put back nor renew what another has now"""
    id_, row = await sending.queue("one"), "SELECT s::text FROM sends s"
    assert id_ is not None
    for worker in ("first", "second"):
        await sending.sql.execute("UPDATE sends SET state = 'queued', worker = NULL, lease_until = NULL")
        assert await outbox.claim(
            sending.sql,
            account="main",
            stream="transactional",
            default=True,
            limit=1,
            worker=worker,
            lease=timedelta(minutes=1),
        )
    before = await sending.sql.fetchval(row)
    await outbox.renew(sending.sql, [id_], "first", timedelta(hours=1))
    assert not await outbox.keep(sending.sql, id_, "first", "failed", reason=None, detail="")
    assert await outbox.begin(sending.sql, id_, "first", "main", "m", []) is None
    assert await sending.sql.fetchval(row) == before
    assert await outbox.begin(sending.sql, id_, "second", "main", "m", []) is not None


async def test_a_busy_account_rests_for_all(sending: Sending, looks: Counter[str]) -> None:
    """after a 421 no sender asks again until the pause is over, and nothing is lost"""
    sending.peer.mail = deque(["421 4.7.0 too many", "250 OK"])
    await sending.queue("first")
    async with sending.running(*(sending.sender() for _ in range(3))):
        await value(sending.sql, "SELECT count(*) FROM send_accounts WHERE paused_until > now()", 1)
        for number in range(5):
            await sending.queue(f"more {number}", to=f"to{number}@example.com")
        looks.clear()
        await true(lambda: len(looks) == 3 and min(looks.values()) > 1)
        assert len(sending.peer.asked) == 1
        await value(sending.sql, "SELECT count(*) FROM sends WHERE state = 'queued'", 6)
        await sending.sql.execute("UPDATE send_accounts SET paused_until = now()")
        await sending.sql.execute("UPDATE sends SET not_before = now()")
        await value(sending.sql, "SELECT count(*) FROM sends WHERE state = 'sent'", 6)
    assert len(sending.peer.taken) == 6
    assert await sending.sql.fetchval("SELECT count(*) FROM send_attempts") == 7  # nobody took the others in hand


async def test_a_refused_recipient(sending: Sending) -> None:
    """a reply to RCPT is the recipient's failure and is told; one to MAIL pauses the account until people act"""
    sending.peer.rcpt = deque(["550 5.1.1 no such user", "250 OK"])
    await sending.queue("dead")
    async with sending.running(sending.sender()):
        await sending.state("dead", "failed")
        assert sending.refused == ["ann@example.com"]
        sending.peer.mail = deque(["550 5.7.1 not you", "250 OK"])
        await sending.queue("ours", to="bob@example.com")
        await value(sending.sql, "SELECT paused_at IS NOT NULL AND paused_until IS NULL FROM send_accounts", True)
        await sending.state("ours", "queued")
        await outbox.resume(sending.sql, "main")
        await sending.state("ours", "sent")


async def test_a_limited_account_begins_with_one(sending: Sending) -> None:
    """where a rate is kept, nothing gathers behind the first connection, to go out at once when it is there"""
    sending.peer.hold = asyncio.Event()
    for number in range(5):
        await sending.queue(f"{number}", to=f"to{number}@example.com")
    async with sending.running(sending.sender(per_second=100)):
        await value(sending.sql, "SELECT count(*) FROM sends WHERE begun_at IS NOT NULL", 1)
        assert await sending.sql.fetchval("SELECT count(*) FROM sends WHERE state = 'leased'") == 1
        sending.peer.hold.set()
        await value(sending.sql, "SELECT count(*) FROM sends WHERE state = 'sent'", 5)


async def test_what_a_killed_sender_leaves(sending: Sending) -> None:
    """killed in the middle: marketing mail stays unknown, transactional mail goes again under the same Message-ID"""
    await sending.subscribed("bob@example.com")
    sending.peer.hold = asyncio.Event()
    await sending.queue("receipt")
    await sending.queue("offer", to="bob@example.com", stream="marketing", topic="news")
    killed = sending.sender()
    task = asyncio.create_task(killed.run(asyncio.Event()))
    await value(sending.sql, "SELECT count(*) FROM sends WHERE begun_at IS NOT NULL", 2)
    for one in (*killed._tasks, task):
        one.cancel()
    await asyncio.gather(task, return_exceptions=True)
    sending.peer.hold.set()
    await sending.sql.execute("UPDATE sends SET lease_until = now() - interval '1 s'")
    await outbox.recover(sending.sql)
    assert await sending.sql.fetchval("SELECT array_agg(state) FROM sends") == ["unknown", "unknown"]
    assert await outbox.send_again(sending.sql, timedelta(0), most=12, within=timedelta(days=3)) == 1
    before = len(sending.peer.taken)
    async with sending.running(sending.sender()):
        await sending.state("receipt", "sent")
    await sending.state("offer", "unknown")
    receipts = {mail["Message-ID"] for mail in sending.peer.taken if mail["Subject"] == "receipt"}
    assert (len(receipts), len(sending.peer.taken) - before) == (1, 1)
    offer = await sending.sql.fetchval("SELECT id FROM sends WHERE key = 'offer'")
    assert await outbox.prove(sending.sql, [(offer, "provider-1")]) == 1
    await sending.state("offer", "sent")


async def test_the_frequency_cap_holds_against_eight(sending: Sending) -> None:
    """eight senders with many messages for one person send as many as the cap allows, and hold the others"""
    await sending.subscribed("ann@example.com")
    for number in range(12):
        await sending.queue(f"offer {number}", stream="marketing", topic="news")
    rules = SendingSettings(per_day=2)
    async with sending.running(*(sending.sender(rules=rules) for _ in range(8))):
        await value(sending.sql, "SELECT count(*) FROM sends WHERE state = 'sent'", 2)
        held = "SELECT count(*) FROM sends WHERE state = 'queued' AND reason = 'frequency_cap' AND not_before > now()"
        await value(sending.sql, held, 10)
    assert len(sending.peer.taken) == 2


async def test_what_has_become_pointless(sending: Sending) -> None:
    """a send whose recipient has clicked meanwhile is skipped, also by a click with one tag"""
    insert = """
        INSERT INTO events (id, occurred_at, type, source, provider, provider_type, recipient, tags, shard, actor)
        VALUES (gen_random_uuid(), now(), 'clicked', 's', 'p', 'click', $1, $2, 1, 'human')
    """
    await sending.queue("remind", cancel_on=["clicked"])
    await sending.queue("offer", to="bob@example.com", cancel_on=["clicked:offer"])
    await sending.queue("other", to="cid@example.com", cancel_on=["clicked:offer"])
    for name, tag in (("ann", "x"), ("bob", "offer"), ("cid", "x")):
        await sending.sql.execute(insert, f"{name}@example.com", [tag])
    async with sending.running(sending.sender()):
        for key, state in (("remind", "skipped"), ("offer", "skipped"), ("other", "sent")):
            await sending.state(key, state)
    assert [await sending.why(key) for key in ("remind", "offer")] == [
        "cancelled_by_clicked",
        "cancelled_by_clicked:offer",
    ]


async def test_marketing_waits_for_the_suppression_handler(sending: Sending) -> None:
    """while that handler is paused no marketing mail goes out, and transactional mail does"""
    await sending.subscribed("ann@example.com")
    await sending.sql.execute(
        "INSERT INTO cursors (handler, shard, gen, txid, position, read_from) "
        "SELECT 'suppression', n, 1, pg_current_xact_id(), 0, now() FROM generate_series(0, 63) n"
    )
    await sending.sql.execute("INSERT INTO handlers (name, state) VALUES ('suppression', 'paused')")
    await sending.queue("offer", stream="marketing", topic="news")
    await sending.queue("receipt", to="bob@example.com")
    async with sending.running(sending.sender()):
        await sending.state("receipt", "sent")
        await value(sending.sql, "SELECT reason FROM sends WHERE key = 'offer'", "the handler suppression is paused")
    await sending.state("offer", "queued")


def test_the_guard_asks_in_order() -> None:
    """the first question that keeps a message is the last that is asked"""
    facts = Facts(marketing=True, now=NOW, sendable=False, why_not="complaint", suppression="late")
    assert [one.name for one in check(facts, SendingSettings())] == ["switch", "deadline", "sendable"]
    free = check(Facts(marketing=True, now=NOW), SendingSettings())
    assert [one.verdict for one in free] == ["go"] * 8
    assert [one.name for one in check(Facts(marketing=False, now=NOW), SendingSettings())][-1] == "loop"


@pytest.mark.parametrize(
    ("recent", "until"),
    [
        ([1, 2], None),
        ([1, 2, 3], NOW + timedelta(hours=21)),
        ([1, 2, 3, 4], NOW + timedelta(hours=21)),
        ([30, 40, 50, 60, 70, 80, 90, 100, 110, 160], NOW + timedelta(hours=8)),
    ],
)
def test_the_frequency_cap_says_when(recent: Sequence[int], until: datetime | None) -> None:
    """a held message may go once the oldest of those that fill the cap is old enough"""
    facts = Facts(marketing=True, now=NOW, recent=tuple(NOW - timedelta(hours=ago) for ago in recent))
    last = check(facts, SendingSettings(per_day=3, per_week=10))[-1]
    assert last == (Check("hours", "go") if until is None else Check("frequency", "hold", "frequency_cap", until))


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-03-29T00:30+01:00", "2026-03-29T06:00+02:00"),  # the night is an hour short
        ("2026-10-25T02:30+02:00", "2026-10-25T06:00+01:00"),  # the first 02:30 of a long night
        ("2026-10-25T02:30+01:00", "2026-10-25T06:00+01:00"),  # the second
        ("2026-10-25T05:59+01:00", "2026-10-25T06:00+01:00"),
        ("2026-10-25T06:00+01:00", None),
        ("2026-10-24T21:59+02:00", None),
        ("2026-10-24T22:00+02:00", "2026-10-25T06:00+01:00"),
    ],
)
def test_quiet_hours_follow_the_wall_clock(now: str, until: str | None) -> None:
    """quiet hours are those of the person's wall, also in the nights in which the clocks change"""
    found = quiet_until(datetime.fromisoformat(now), (time(22), time(6)), ZoneInfo("Europe/Vienna"))
    assert found == (None if until is None else datetime.fromisoformat(until))


async def test_a_rate_is_shared(sending: Sending) -> None:
    """places in the row are evenly spaced, whoever asks for them; windows give out as much as they have"""
    spacing = timedelta(seconds=10)
    pool = await asyncpg.create_pool(sending.dsn, min_size=8, max_size=8)
    try:
        waits = await asyncio.gather(*(outbox.take_slot(pool, "main", spacing) for _ in range(40)))
        hour = timedelta(hours=1)
        left = await asyncio.gather(*(outbox.take_from_window(pool, "main", "hour", hour, 5) for _ in range(8)))
    finally:
        await pool.close()
    assert [round(wait / 10) for wait in sorted(waits)] == list(range(40))
    assert sum(one is None for one in left) == 5
