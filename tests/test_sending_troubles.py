"""The outbox while something is wrong: a database that goes away, a server that fails, limits, and what comes first."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from receiver.contacts.configured import policy_of
from receiver.contacts.rules import Rules
from receiver.policy_settings import PolicySettings
from receiver.sending.running import suppressing
from receiver.sending.transport import Rejected
from receiver.sending.turns import Full, take_turn, turns_free
from receiver.sending_settings import SendingSettings
from receiver.store import outbox
from receiver.store.sql import Sql
from tests.outbox import STATE, Sending
from tests.smtp_peer import DROP
from tests.tcp_proxy import proxied
from tests.workers import VAULT, true, value

DUE = [
    f"((stream = 'marketing'::text) AND {account} AND (not_before <= "
    for account in ("(account = 'main'::text)", "(account IS NULL)")
]
SENT = "SELECT count(*) FROM sends WHERE state = 'sent'"


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


async def test_connections_that_died_without_a_word(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """a sender whose connections nobody answers takes others by itself; and it ends though nobody answers at all"""
    monkeypatch.setattr("receiver.sending.sender.PATIENCE", 0.5)
    monkeypatch.setattr("receiver.sending.sender.CLEANING", 0.5)
    async with proxied(sending.dsn) as (proxy, dsn):
        sender = sending.sender(dsn=dsn)
        async with sending.running(sender):
            await sending.queue("first")
            await sending.state("first", "sent")
            proxy.swallow()
            await sending.queue("second")
            await sending.state("second", "sent")
            monkeypatch.setattr("receiver.sending.sender.PATIENCE", 3600.0)  # of those that are made anew
            proxy.passing.clear()
    assert len(sending.peer.taken) == 2


async def test_a_reply_that_no_text_can_hold(sending: Sending) -> None:
    """what a server has taken is sent, also where its reply has a character in it that cannot be stored"""
    sending.peer.data = deque(["250 2.0.0 taken\x00as q1"])
    await sending.queue("receipt")
    async with sending.running(sending.sender()):
        await sending.state("receipt", "sent")
    assert await sending.sql.fetchval("SELECT detail FROM sends") == "2.0.0 taken\ufffdas q1"


async def test_an_outcome_that_cannot_be_stored_is_told(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """an outcome is kept as long as the process lives, which says so again and again, and at its end that it is lost"""
    monkeypatch.setattr("receiver.sending.settling.AGAIN", 0.001)
    monkeypatch.setattr("receiver.sending.sender.GRACE", 0.1)
    await sending.queue("receipt")
    await sending.sql.execute("""
        CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'away'; END $$;
        CREATE TRIGGER away BEFORE UPDATE ON send_attempts FOR EACH ROW EXECUTE FUNCTION away()
    """)
    with capture_logs() as told:
        async with sending.running(sending.sender()):
            await true(lambda: sum(one["log_level"] == "error" for one in told) > 5)
    *waits, last = [one["action"] for one in told if one["log_level"] == "error"]
    assert (set(waits), last) == ({"send_waits"}, "outcome_lost")


async def test_an_outcome_that_is_refused_for_good(sending: Sending) -> None:
    """an outcome that the database would refuse again and again is told to be lost, and keeps nobody waiting"""
    first = await sending.queue("first")
    await sending.sql.execute(f"""
        CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'never' USING ERRCODE = 'data_exception'; END $$;
        CREATE TRIGGER never BEFORE UPDATE ON send_attempts FOR EACH ROW WHEN (new.send_id = '{first}')
            EXECUTE FUNCTION never()
    """)
    with capture_logs() as told:
        async with sending.running(sending.sender(rules=SendingSettings(concurrency=1))):
            await true(lambda: len(sending.peer.taken) == 1)
            await sending.queue("second", to="bob@example.com")
            await sending.state("second", "sent")
    assert [one["action"] for one in told if one["log_level"] == "error"] == ["outcome_lost"]


@pytest.mark.parametrize("fault", [KeyError(), asyncpg.DeadlockDetectedError("deadlock")], ids=repr)
async def test_a_refusal_is_stored_whatever_follows(sending: Sending, fault: Exception) -> None:
    """a message that was refused stays so where a fault keeps the address from being suppressed, and counts as one"""
    calls = list[str]()

    async def bounced(_sql: Sql, _row: asyncpg.Record, _account: str, _why: Rejected) -> None:
        calls.append(await sending.sql.fetchval("SELECT state FROM sends"))
        if len(calls) == 1:
            raise fault

    sending.bounced = bounced
    sending.peer.rcpt = deque(["550 5.1.1 no such user"])
    await sending.queue("dead")
    sender = sending.sender()
    async with sending.running(sender):
        await true(lambda: len(calls) > 0 and not sender._tasks)
    assert calls == ["failed"] * (2 if isinstance(fault, asyncpg.PostgresError) else 1)
    assert (await sending.why("dead"), sender.counted()) == ("recipient_refused", {("main", "rejected"): 1})


async def test_what_is_known_after_the_lease_was_lost(sending: Sending) -> None:
    """a server that says late that it has not taken a message is believed: it goes again, marketing mail too"""
    await sending.subscribed("ann@example.com")
    sending.peer.hold = asyncio.Event()
    sending.peer.data = deque(["451 4.3.0 later"])
    await sending.queue("offer", stream="marketing", topic="news")
    async with sending.running(sending.sender()):
        await value(sending.sql, "SELECT count(*) FROM sends WHERE begun_at IS NOT NULL", 1)
        await sending.sql.execute("UPDATE sends SET lease_until = now() - interval '1 s'")
        await outbox.recover(sending.sql)
        assert await sending.why("offer") == "interrupted"
        sending.peer.hold.set()
        await sending.state("offer", "queued")
    assert await sending.sql.fetchval("SELECT not_before > now() FROM sends")


async def test_a_chore_that_fails(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """a fault in what is done every few seconds is told, and it is done again"""
    monkeypatch.setattr("receiver.sending.sender.CHORES", 0.01)
    failing = asyncio.Event()
    failing.set()

    async def chore(_: asyncpg.Pool) -> None:
        if failing.is_set():
            raise ValueError

    sender = sending.sender(chore=chore)
    async with sending.running(sender):
        await true(lambda: sender.trouble() == "the outbox is not looked after: ValueError")
        failing.clear()
        await true(lambda: sender.trouble() is None)


async def test_a_message_that_cannot_be_made(sending: Sending) -> None:
    """a fault of ours ends the message, which says so, and not one that loops for ever"""

    async def wrong() -> None:
        raise KeyError("ann@example.com")

    sending.before = wrong
    await sending.queue("receipt")
    async with sending.running(sending.sender(per_hour=5)):
        await sending.state("receipt", "failed")
    row = await sending.sql.fetchrow("SELECT reason, detail FROM sends")
    assert row is not None
    assert (row["reason"], "KeyError" in row["detail"], "ann" in row["detail"]) == ("fault", True, False)
    assert await sending.sql.fetchval("SELECT used FROM send_budgets WHERE per = 'hour'") == 0


async def test_what_the_database_refuses_for_good(sending: Sending) -> None:
    """a message that the database refuses ends, and says so; it is not taken in hand again and again"""
    await sending.queue("receipt")
    await sending.sql.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION USING ERRCODE = 'data_exception'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON send_attempts FOR EACH ROW EXECUTE FUNCTION refuse()
    """)
    async with sending.running(sending.sender()):
        await sending.state("receipt", "failed")
    row = await sending.sql.fetchrow("SELECT reason, detail, attempts FROM sends")
    assert row is not None
    assert (row["reason"], "DataError" in row["detail"], row["attempts"]) == ("fault", True, 0)
    assert sending.peer.taken == []


async def test_what_nobody_sends(sending: Sending) -> None:
    """a message whose account is gone ends once it is too late, and one that is not stays"""
    await sending.queue("old", account="gone")
    await sending.queue("short", account="gone", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    await sending.sql.execute(
        "UPDATE sends SET created_at = created_at - interval '4 d', due_at = due_at - interval '4 d'"
    )
    await sending.queue("new", account="gone")
    async with sending.running(sending.sender()):
        await sending.state("old", "skipped")
        await sending.state("short", "skipped")
    assert (await sending.why("old"), await sending.sql.fetchval(STATE, "new")) == ("too_late", "queued")
    noted = await sending.sql.fetch("SELECT account, outcome, detail FROM send_attempts")
    assert [tuple(row) for row in noted] == [("gone", "skipped", "too_late")] * 2


async def test_what_the_release_before_has_queued(sending: Sending, tmp_path: Path) -> None:
    """what it has queued for ten days on is not late then: its deadline begins when it was to be sent"""
    sending.templates = tmp_path
    (tmp_path / "welcome").mkdir()
    for part in ("subject.txt", "body.txt"):
        (tmp_path / "welcome" / part).write_text("Welcome")
    await sending.sql.execute("""
        INSERT INTO sends (key, recipient, template, stream, topic, data, cancel_on, not_before, handler, event_id)
        VALUES ('k', 'a@example.com', 'welcome', 'transactional', NULL, '{}', '{}', now() + interval '10 d', 'h', NULL)
    """)
    await sending.sql.execute("""
        UPDATE sends SET not_before = not_before - interval '10 d', due_at = due_at - interval '10 d',
               created_at = created_at - interval '10 d'
    """)
    async with sending.running(sending.sender()):
        await sending.state("k", "sent")
    assert await sending.sql.fetchval("SELECT due_at = not_before FROM sends")


async def test_marketing_leaves_a_tenth(sending: Sending) -> None:
    """a newsletter uses up nine tenths of an hour, so that a password reset finds a place in it"""
    (account,) = sending.sender(per_hour=20)._accounts.values()
    for stream, most in (("marketing", 18), ("transactional", 2)):
        turns = [await take_turn(sending.sql, account, stream) for _ in range(20)]
        assert turns.count(["hour"]) == most
        assert all(isinstance(one, Full) for one in turns[most:])


async def test_a_sender_that_stops_gives_its_turns_back(sending: Sending) -> None:
    """a message that waited for its turn when the process was stopped uses up nothing of the hour"""
    for number in range(3):
        await sending.queue(f"{number}")
    async with sending.running(sending.sender(per_hour=10, per_second=0.01)):
        await value(sending.sql, "SELECT used FROM send_budgets WHERE per = 'hour'", 3)
        await value(sending.sql, SENT, 1)
    assert await sending.sql.fetchval("SELECT used FROM send_budgets WHERE per = 'hour'") == 1
    assert await sending.sql.fetchval("SELECT count(*) FROM sends WHERE state = 'queued'") == 2


async def test_an_hour_that_is_full_uses_up_no_day(sending: Sending) -> None:
    """messages that wait for the next hour do not count for the day"""
    for number in range(6):
        await sending.queue(f"{number}")
    async with sending.running(sending.sender(per_hour=2, per_day=10)):
        await value(sending.sql, "SELECT count(*) FROM sends WHERE reason = 'rate_limit' AND state = 'queued'", 4)
        await value(sending.sql, SENT, 2)
    assert await sending.sql.fetchval("SELECT used FROM send_budgets WHERE per = 'day'") == 2


async def test_a_limit_holds_the_stream(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """where an hour is used up, messages stay as they were, and are not taken in hand again and again"""
    monkeypatch.setattr("receiver.sending.sender.CHORES", 0.01)
    await sending.sql.execute("""
        CREATE SEQUENCE claimed;
        CREATE FUNCTION claimed() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM nextval('claimed'); RETURN NEW; END $$;
        CREATE TRIGGER claimed AFTER UPDATE ON sends FOR EACH ROW WHEN (NEW.state = 'leased' AND OLD.state = 'queued')
        EXECUTE FUNCTION claimed()
    """)
    chores = 0

    async def chore(_: asyncpg.Pool) -> None:
        nonlocal chores
        chores += 1

    for number in range(15):
        await sending.queue(f"{number}")
    async with sending.running(sending.sender(per_hour=2, chore=chore)):
        await value(
            sending.sql, "SELECT count(*) > 0 FROM sends WHERE reason = 'rate_limit' AND state = 'queued'", True
        )
        since = chores
        await true(lambda: chores > since + 50)
    assert await sending.sql.fetchval("SELECT last_value FROM claimed") <= 20
    assert await sending.sql.fetchval("SELECT count(*) FROM sends WHERE not_before < now() AND state = 'queued'") == 13


@pytest.mark.parametrize(
    ("limits", "held", "free"),
    [
        ({}, 1, None),
        ({"per_hour": 10, "per_day": 100}, 5, 9),
        ({"per_day": 10}, 8, 1),
        ({"per_day": 10}, 30, 9),
        ({"per_second": 0.001}, 30, 4),
    ],
)
async def test_how_many_may_join(sending: Sending, limits: dict[str, Any], held: int, free: int | None) -> None:
    """so many may be queued as have their turn, and no more than go in a day with those that wait for the morning"""
    (account,) = sending.sender(**limits)._accounts.values()
    for number in range(8):
        delay = timedelta(hours=held)
        await sending.queue(f"{number}", to=f"to{number}@example.com", stream="marketing", topic="news", delay=delay)
    assert await turns_free(sending.sql, account, "marketing", default=True) == free
    if free:
        await sending.queue("now", stream="marketing", topic="news")
        assert await turns_free(sending.sql, account, "marketing", default=True) == free - 1


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
    """however often the server says that we send too much, no message fails for it, then or later"""
    sending.peer.mail = deque([*["421 4.7.0 too many"] * 3, "250 OK"])
    sending.peer.rcpt = deque(["450 4.2.1 later"])
    await sending.queue("receipt")
    async with sending.running(sending.sender(rules=SendingSettings(max_attempts=2))):
        for number, state in ((1, "queued"), (2, "queued"), (3, "queued"), (4, "queued"), (5, "failed")):
            await value(sending.sql, "SELECT attempts FROM sends", number)
            await sending.state("receipt", state)
            await outbox.resume(sending.sql, "main")
            await sending.sql.execute("UPDATE sends SET not_before = now() WHERE state = 'queued'")
    noted = await sending.sql.fetchval("SELECT array_agg(outcome ORDER BY id) FROM send_attempts")
    assert noted == [*["pause"] * 3, "retry", "retry"]


@pytest.mark.parametrize(
    ("statement", "types", "values", "conditions"),
    [
        ("_CLAIM", "text, text, bool, bigint, text, interval", "'main', 'marketing', true, 10, 'w', '1 m'", DUE),
        ("_WAITING", "text, text, bool, interval, bigint", "'main', 'marketing', true, '1 d', 10", DUE),
        (
            "_EXPIRE",
            "interval",
            "'3 d'",
            ["(expires_at <= ", "(GREATEST(created_at, COALESCE(due_at, not_before)) <= "],
        ),
    ],
)
async def test_nobody_reads_past_the_others(
    sending: Sending, statement: str, types: str, values: str, conditions: list[str]
) -> None:
    """what is due, or late, is found without a look at what waits for other accounts, or for its time, however much"""
    await sending.sql.execute("""
        INSERT INTO sends (key, recipient, template, stream, handler, account, not_before)
        SELECT n, 'ann@example.com', '', 'marketing', 'test', CASE WHEN n % 2 = 0 THEN 'gone' END,
               CASE WHEN n % 2 = 0 THEN now() ELSE now() + interval '7 d' END
        FROM generate_series(1, 20000) AS n
    """)
    await sending.sql.execute("ANALYZE sends")
    await sending.sql.execute(f"PREPARE asked ({types}) AS {getattr(outbox, statement)}")
    plan = "\n".join(row[0] for row in await sending.sql.fetch(f"EXPLAIN EXECUTE asked ({values})"))
    assert all(f"Index Cond: {one}" in plan for one in conditions), plan
    assert "Sort Key: s" not in plan, plan


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


@pytest.mark.parametrize(
    ("policy", "reasons", "streak"),
    [
        ({}, ["hard_bounce"], 0),
        ({"invalid_recipient": "never"}, [], 0),
        ({"invalid_recipient": {"messages": 2, "over": "1h"}}, [], 1),
        ({"streams": {"marketing": {"invalid_recipient": "never"}}}, ["hard_bounce"], 0),
    ],
)
async def test_a_refusal_follows_the_policy(
    sending: Sending, policy: dict[str, Any], reasons: list[str], streak: int
) -> None:
    """what a server's refusal of a recipient means for the address, the policy says, as of bounces that events tell"""
    rules = Rules(policy=policy_of(PolicySettings.model_validate(policy)))
    sending.bounced = suppressing(VAULT, rules)
    sending.peer.rcpt = deque(["550 5.1.1 no such user"])
    await sending.queue("dead")
    async with sending.running(sending.sender()):
        await sending.state("dead", "failed")
    found = await sending.sql.fetch("SELECT reason, source, event_id FROM suppressions")
    assert [tuple(row) for row in found] == [(reason, "main", None) for reason in reasons]
    contact = await sending.sql.fetchrow("SELECT soft_streak, last_bounced_at IS NOT NULL FROM contacts")
    assert contact is not None
    assert tuple(contact) == (streak, True)


async def test_a_rest_does_not_hide_who_has_paused(sending: Sending) -> None:
    """a message that was in flight and finds the server busy, or closed, leaves the pause of an operator as it was"""
    now = datetime.now(UTC)
    pauses = (
        ("busy", None, now - timedelta(hours=1), "busy"),
        ("a maintenance", "alice", now + timedelta(hours=2), "a maintenance"),
        ("busy", None, now + timedelta(hours=1), "a maintenance"),
        ("an incident", "alice", None, "an incident"),
        ("busy", None, now + timedelta(hours=1), "an incident"),
        ("a wrong password", None, None, "an incident"),
    )
    for reason, by, until, stands in pauses:
        await outbox.pause(sending.sql, "main", until, by=by, reason=reason)
        assert await sending.sql.fetchval("SELECT reason FROM send_accounts") == stands
    row = await sending.sql.fetchrow("SELECT paused_until, paused_by FROM send_accounts")
    assert row is not None
    assert tuple(row) == (None, "alice")


async def test_a_pause_begins_anew(sending: Sending) -> None:
    """an account that is paused again does not say that it has been since the pause before"""
    await outbox.pause(sending.sql, "main", datetime.now(UTC) + timedelta(hours=1), by=None, reason="busy")
    ended = "UPDATE send_accounts SET paused_at = now() - interval '1 d', paused_until = now() - interval '1 h'"
    await sending.sql.execute(ended)
    await outbox.pause(sending.sql, "main", None, by="alice", reason="an incident")
    assert await sending.sql.fetchval("SELECT paused_at > now() - interval '1 h' FROM send_accounts")
