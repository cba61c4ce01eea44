"""The outbox in SQL: which messages are due, who sends them, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from receiver.store.sql import Sql

EVERY: Final = "*"  # send_accounts.name of the kill switch

# Those of paused accounts and broadcasts stay where they are. Ours alone: another process may have accounts that we do
# not have. The release before knows no due_at, and moves no not_before: when they are first taken, both are the same.
# Each arm goes by the index sends_due and reads no more than it takes: therefore in the index's own order, and by a
# time that does not change meanwhile, as clock_timestamp() does.
_DUE: Final = """
    SELECT s.id, s.not_before FROM sends s
    WHERE s.state = 'queued' AND s.stream = $2 AND {account} AND s.not_before <= statement_timestamp()
      AND NOT EXISTS (SELECT FROM send_accounts a
                      WHERE a.name IN ('*', $1) AND a.paused_at IS NOT NULL
                        AND (a.paused_until IS NULL OR a.paused_until > clock_timestamp()))
      AND NOT EXISTS (SELECT FROM broadcasts b WHERE b.id = s.broadcast_id AND b.state IN ('paused', 'cancelled'))
    ORDER BY s.account, s.not_before LIMIT $4 FOR UPDATE SKIP LOCKED
"""
_CLAIM: Final = f"""
WITH named AS ({_DUE.format(account="s.account = $1")}),
unnamed AS ({_DUE.format(account="s.account IS NULL AND $3")}),
due AS (SELECT id FROM (TABLE named UNION ALL TABLE unnamed) AS found ORDER BY not_before LIMIT $4)
UPDATE sends s SET state = 'leased', worker = $5, lease_until = clock_timestamp() + $6::interval, begun_at = NULL,
       due_at = coalesce(s.due_at, s.not_before)
FROM due WHERE s.id = due.id
RETURNING s.*
"""

_RENEW: Final = """
UPDATE sends SET lease_until = clock_timestamp() + $3::interval
WHERE id = ANY ($1) AND worker = $2 AND state = 'leased'
"""

# Whoever held these has died or hung. What had not begun is as it was; what had begun, nobody can say.
_RECOVER: Final = """
UPDATE sends SET
    state = CASE WHEN begun_at IS NULL THEN 'queued' ELSE 'unknown' END,
    settled_at = CASE WHEN begun_at IS NULL THEN NULL ELSE clock_timestamp() END,
    reason = CASE WHEN begun_at IS NULL THEN reason ELSE 'interrupted' END,
    detail = CASE WHEN begun_at IS NULL THEN detail
                  ELSE 'the process that sent it ended before the answer was stored' END,
    worker = NULL, lease_until = NULL
WHERE state = 'leased' AND lease_until < clock_timestamp()
RETURNING id, state
"""

# Since it was last due; what is the account's own trouble is noted as `pause` and does not count.
_TRIED: Final = """
(SELECT count(*) FROM send_attempts a
 WHERE a.send_id = s.id AND a.outcome IN ('retry', 'unknown') AND a.at >= s.due_at)
"""
# Marketing mail is at most once: it stays unknown. So does what nobody would wait for any more. A provider that can be
# asked is asked first, where that does not take as long again.
_AGAIN: Final = f"""
UPDATE sends s SET state = 'queued', settled_at = NULL, begun_at = NULL, not_before = clock_timestamp()
WHERE state = 'unknown' AND stream = 'transactional' AND settled_at < clock_timestamp() - $1::interval
  AND (expires_at IS NULL OR expires_at > clock_timestamp()) AND {_TRIED} < $2
  AND due_at > clock_timestamp() - $3::interval
  AND NOT (account = ANY ($4::text[]) AND asks = 0 AND settled_at > clock_timestamp() - 2 * $1::interval)
RETURNING id
"""

# What nobody takes in hand: its account is in no process's configuration, or paused. A piece at a time, by the indexes
# sends_expiring and sends_late.
_LATE: Final = """
    SELECT s.id FROM sends s
    WHERE s.state = 'queued' AND s.not_before <= statement_timestamp() AND {since} <= statement_timestamp() - {within}
    ORDER BY {since} LIMIT 1000 FOR UPDATE SKIP LOCKED
"""
_OLD: Final = _LATE.format(since="greatest(s.created_at, coalesce(s.due_at, s.not_before))", within="$1::interval")
_EXPIRE: Final = f"""
WITH expired AS ({_LATE.format(since="s.expires_at", within="interval '0'")}),
old AS ({_OLD}),
late AS (TABLE expired UNION TABLE old),
ended AS (
    UPDATE sends s SET state = 'skipped', reason = 'too_late', settled_at = clock_timestamp(),
           detail = 'no account has sent it in time'
    FROM late WHERE s.id = late.id RETURNING s.id, s.attempts, s.account
)
INSERT INTO send_attempts (send_id, attempt, account, outcome, detail)
SELECT id, attempts, coalesce(account, ''), 'skipped', 'too_late' FROM ended RETURNING send_id
"""

_LOCK: Final = "SELECT pg_advisory_xact_lock($1, hashtext($2))"
_LOCK_SPACE: Final = 0x5E2D  # of advisory locks: marketing mail to one person is judged by one process at a time

# What makes a send pointless counts from what it follows, which may have waited for its handler: a click settles first.
# Until the send was made, the same once more (a double click) does not.
_FACTS: Final = f"""
SELECT clock_timestamp() AS now, s.state, s.worker,
       paused.reason AS paused, paused.paused_until,
       answer.sendable, answer.reason AS why_not,
       coalesce((SELECT e.type || coalesce(':' || tag, '')
        FROM events e LEFT JOIN LATERAL unnest(e.tags) AS tag ON e.type || ':' || tag = ANY (s.cancel_on)
        WHERE e.recipient = s.recipient AND e.occurred_at > cause.at AND e.received_at > cause.at - interval '1 hour'
          AND e.id IS DISTINCT FROM s.event_id
          AND (e.occurred_at > s.created_at OR e.type IS DISTINCT FROM cause.type
               OR e.message_id IS DISTINCT FROM cause.message_id)
          AND e.attribution IS NULL AND coalesce(e.actor, '') <> 'machine' AND NOT e.is_test
          AND NOT EXISTS (SELECT FROM click_verdicts v WHERE v.event_id = e.id AND v.actor = 'machine')
          AND (e.type = ANY (s.cancel_on) OR tag IS NOT NULL)
        ORDER BY e.occurred_at LIMIT 1),
        (SELECT 'prefetched' FROM contacts c
         WHERE 'prefetched' = ANY (s.cancel_on) AND c.address = s.recipient AND c.prefetched_at IS NOT NULL)) AS done,
       ARRAY (SELECT coalesce(o.begun_at, o.settled_at) FROM sends o
              WHERE o.recipient = s.recipient AND o.id <> s.id AND o.stream = 'marketing'
                AND o.created_at > clock_timestamp() - interval '40 days'
                AND (o.state IN ('sent', 'unknown') OR o.state = 'leased' AND o.begun_at IS NOT NULL)
                AND coalesce(o.begun_at, o.settled_at) > clock_timestamp() - interval '7 days') AS recent,
       (SELECT c.time_zone FROM contacts c WHERE c.address = s.recipient) AS time_zone
FROM sends s
LEFT JOIN LATERAL sendable($3, s.topic, s.stream) AS answer ON true
LEFT JOIN LATERAL (
    SELECT min(t.occurred_at) AS occurred_at, min(t.type) AS type, min(t.message_id) AS message_id FROM events t
    WHERE cardinality(s.cancel_on) > 0 AND t.recipient = s.recipient AND t.id = s.event_id
) AS known ON true
CROSS JOIN LATERAL (
    SELECT least(known.occurred_at, s.created_at) AS at, known.type, known.message_id
) AS cause
LEFT JOIN LATERAL (
    SELECT a.reason, a.paused_until FROM send_accounts a
    WHERE a.name IN ('{EVERY}', $2) AND a.paused_at IS NOT NULL
      AND (a.paused_until IS NULL OR a.paused_until > clock_timestamp())
    UNION ALL
    SELECT 'its broadcast is ' || b.state, NULL FROM broadcasts b
    WHERE b.id = s.broadcast_id AND b.state IN ('paused', 'cancelled')
    ORDER BY paused_until DESC NULLS FIRST LIMIT 1
) AS paused ON true
WHERE s.id = $1
"""

_BEGIN: Final = """
WITH begun AS (
    UPDATE sends SET begun_at = clock_timestamp(), attempts = attempts + 1, account = $3, internet_message_id = $4,
                     asks = 0
    WHERE id = $1 AND worker = $2 AND state = 'leased' AND begun_at IS NULL
    RETURNING id, attempts
)
INSERT INTO send_attempts (send_id, attempt, account, outcome, detail, checks)
SELECT id, attempts, $3, 'unknown', 'it goes on', $5::jsonb FROM begun
RETURNING attempt, id
"""
_ATTEMPT: Final = """
INSERT INTO send_attempts (send_id, attempt, account, outcome, detail, checks)
VALUES ($1, $2, $3, $4, $5, $6::jsonb) RETURNING id
"""
_HELD_BEFORE: Final = """
SELECT outcome = 'held' AND detail = $2 FROM send_attempts WHERE send_id = $1 ORDER BY id DESC LIMIT 1
"""
_KEEP: Final = """
UPDATE sends SET state = $3, reason = $4, detail = $5, not_before = coalesce($6, not_before),
       settled_at = CASE WHEN $3 = 'queued' THEN NULL ELSE clock_timestamp() END,
       worker = NULL, lease_until = NULL, begun_at = NULL
WHERE id = $1 AND worker = $2 AND state = 'leased' AND begun_at IS NULL
"""

# By the number of the attempt, not by the lease: what was sent was sent, and what was refused was refused, however late
# we say so.
_SETTLE: Final = """
WITH noted AS (
    UPDATE send_attempts SET outcome = $8, detail = $5 WHERE id = $9
), worked AS (
    UPDATE send_accounts SET failures = 0 WHERE name = $10 AND failures > 0
)
UPDATE sends SET state = $3, reason = $4, detail = $5, not_before = coalesce($6, not_before),
       provider_message_id = coalesce($7, provider_message_id),
       settled_at = CASE WHEN $3 = 'queued' THEN NULL ELSE clock_timestamp() END,
       worker = NULL, lease_until = NULL, begun_at = CASE WHEN $3 IN ('sent', 'unknown') THEN begun_at END
WHERE id = $1 AND attempts = $2
  AND ($3 = 'sent' OR state IN ('leased', 'unknown') OR state = 'queued' AND $3 <> 'unknown')
"""

# What people have to end is not taken for a rest that ends by itself, nor a long rest for a short one. What people have
# paused stays theirs, with their reason, whatever messages in flight then say of the account.
_PAUSE: Final = """
INSERT INTO send_accounts AS a (name, paused_at, paused_until, paused_by, reason)
VALUES ($1, clock_timestamp(), $2, $3, $4)
ON CONFLICT (name) DO UPDATE SET
    paused_at = CASE WHEN a.paused_until <= clock_timestamp() THEN clock_timestamp()
                     ELSE coalesce(a.paused_at, clock_timestamp()) END,
    paused_until = excluded.paused_until, paused_by = excluded.paused_by, reason = excluded.reason,
    changed_at = clock_timestamp()
WHERE (a.paused_at IS NULL OR excluded.paused_until IS NULL OR excluded.paused_until > a.paused_until)
  AND NOT (a.paused_by IS NOT NULL AND a.paused_until IS NULL AND excluded.paused_by IS NULL)
"""
_RESUME: Final = """
UPDATE send_accounts SET paused_at = NULL, paused_until = NULL, paused_by = NULL, reason = '', failures = 0,
       changed_at = clock_timestamp() WHERE name = $1 AND paused_at IS NOT NULL
"""
# Not while it rests: messages that were in flight when it began say the same again, and would make it hours.
_FAILED: Final = """
INSERT INTO send_accounts AS a (name, failures) VALUES ($1, 1)
ON CONFLICT (name) DO UPDATE SET failures = a.failures + 1, changed_at = clock_timestamp()
WHERE a.paused_at IS NULL OR a.paused_until <= clock_timestamp()
RETURNING failures
"""

# The next free place in an even row: each who asks gets one of his own, whichever process he is.
_SLOT: Final = """
INSERT INTO send_budgets AS b (account, per, next_at)
VALUES ($1, 'second', clock_timestamp() + $2::interval)
ON CONFLICT (account, per) DO UPDATE SET next_at = greatest(b.next_at, clock_timestamp()) + $2::interval
RETURNING greatest(extract(epoch FROM next_at - $2::interval - clock_timestamp()), 0)::float8
"""
_WINDOW: Final = """
INSERT INTO send_budgets AS b (account, per, began_at, used) VALUES ($1, $2, clock_timestamp(), 1)
ON CONFLICT (account, per) DO UPDATE SET
    began_at = CASE WHEN b.began_at <= clock_timestamp() - $3::interval THEN clock_timestamp() ELSE b.began_at END,
    used = CASE WHEN b.began_at <= clock_timestamp() - $3::interval THEN 1 ELSE b.used + 1 END
WHERE b.used < $4 OR b.began_at <= clock_timestamp() - $3::interval
RETURNING used
"""
_GIVE_BACK: Final = "UPDATE send_budgets SET used = greatest(used - 1, 0) WHERE account = $1 AND per = ANY ($2)"
_WINDOW_ENDS: Final = """
SELECT greatest(extract(epoch FROM began_at + $3::interval - clock_timestamp()), 0)::float8
FROM send_budgets WHERE account = $1 AND per = $2
"""
_USED: Final = """
SELECT used FROM send_budgets WHERE account = $1 AND per = $2 AND began_at > clock_timestamp() - $3::interval
"""

_WAITS: Final = """
    SELECT FROM sends s
    WHERE s.state = 'queued' AND s.stream = $2 AND {account}
      AND s.not_before <= statement_timestamp() + $4::interval
      AND NOT EXISTS (SELECT FROM broadcasts b WHERE b.id = s.broadcast_id AND b.state IN ('paused', 'cancelled'))
    ORDER BY s.account, s.not_before LIMIT $5
"""
_WAITING: Final = f"""
SELECT least(count(*), $5) FROM (
    ({_WAITS.format(account="s.account = $1")}) UNION ALL ({_WAITS.format(account="s.account IS NULL AND $3")})
) AS found
"""

# Our id of the send travels in the message's metadata, so an event that carries it proves that it was taken.
_PROVEN: Final = """
UPDATE sends s SET state = 'sent', settled_at = coalesce(s.settled_at, clock_timestamp()), worker = NULL,
       lease_until = NULL, reason = NULL, detail = 'an event of the provider tells of it',
       provider_message_id = coalesce(s.provider_message_id, told.message_id)
FROM unnest($1::uuid[], $2::text[]) AS told (id, message_id)
WHERE s.id = told.id AND (s.state = 'unknown' OR s.state IN ('leased', 'queued') AND s.attempts > 0)
"""


async def claim(
    sql: Sql, *, account: str, stream: str, default: bool, limit: int, worker: str, lease: timedelta
) -> list[asyncpg.Record]:
    """Due sends of one stream by one account, now leased to `worker`. `default`: also those that name no account."""
    return await sql.fetch(_CLAIM, account, stream, default, limit, worker, lease)


async def renew(sql: Sql, ids: Sequence[UUID], worker: str, lease: timedelta) -> None:
    await sql.execute(_RENEW, list(ids), worker, lease)


async def recover(sql: Sql) -> list[asyncpg.Record]:
    """Take leases back that have run out: (id, state) of each, queued or unknown."""
    return await sql.fetch(_RECOVER)


async def send_again(sql: Sql, after: timedelta, *, most: int, within: timedelta, asked: Sequence[str] = ()) -> int:
    """Queue transactional sends again that have been unknown for `after`; returns how many.

    Not after `most` attempts, nor later than `within` after they were due. `asked`: accounts whose providers can say
    what they have taken.
    """
    return len(await sql.fetch(_AGAIN, after, most, within, list(asked)))


async def expire(sql: Sql, within: timedelta) -> list[UUID]:
    """End those that are still queued when they may not be sent any more, so long after they were due; their ids."""
    return [row["send_id"] for row in await sql.fetch(_EXPIRE, within)]


async def lock_recipient(sql: Sql, recipient: str) -> None:
    """Until the transaction ends nobody else judges marketing mail to this person."""
    await sql.execute(_LOCK, _LOCK_SPACE, recipient)


async def facts(sql: Sql, id_: UUID, account: str, address_hash: bytes) -> asyncpg.Record | None:
    """What the guard asks for, of a send to the address with this hash through this account."""
    return await sql.fetchrow(_FACTS, id_, account, address_hash)


async def begin(sql: Sql, id_: UUID, worker: str, account: str, message_id: str, checks: Any) -> tuple[int, int] | None:
    """An attempt begins now, and is noted: (its number, the note's id); None: the lease is lost."""
    told = msgspec.json.encode(checks).decode()
    found = await sql.fetchrow(_BEGIN, id_, worker, account, message_id, told)
    return None if found is None else (found["attempt"], found["id"])


async def note(  # noqa: PLR0917 - the columns of an attempt
    sql: Sql, id_: UUID, attempt: int, account: str, outcome: str, detail: str, checks: Any
) -> int:
    """A row of `send_attempts`; its id."""
    found: int = await sql.fetchval(
        _ATTEMPT, id_, attempt, account, outcome, detail, msgspec.json.encode(checks).decode()
    )
    return found


async def was_held(sql: Sql, id_: UUID, detail: str) -> bool:
    """Whether the last that was noted is that it was held for the same reason."""
    return bool(await sql.fetchval(_HELD_BEFORE, id_, detail))


async def keep(
    sql: Sql, id_: UUID, worker: str, state: str, *, reason: str | None, detail: str, not_before: datetime | None = None
) -> bool:
    """End a lease without an attempt: the send is skipped, or queued for later; whether it was."""
    return (await sql.execute(_KEEP, id_, worker, state, reason, detail, not_before)).endswith(" 1")


async def settle(  # noqa: PLR0913 - the columns of an outcome
    sql: Sql,
    id_: UUID,
    attempt: int,
    noted: int,
    *,
    state: str,
    outcome: str,
    reason: str | None,
    detail: str,
    not_before: datetime | None = None,
    provider_message_id: str | None = None,
    worked: str | None = None,
) -> None:
    """Store what became of an attempt, unless a later one, or an event, has settled the send otherwise.

    `worked`: the account, where that shows that it can be used.
    """
    told = (state, reason, detail, not_before, provider_message_id, outcome)
    await sql.execute(_SETTLE, id_, attempt, *told, noted, worked)


async def tried(sql: Sql, id_: UUID) -> int:
    """How often it was tried since it was last due, the account's own troubles aside."""
    found: int = await sql.fetchval(f"SELECT {_TRIED} FROM sends s WHERE s.id = $1", id_)
    return found


async def pause(sql: Sql, account: str, until: datetime | None, *, by: str | None, reason: str) -> None:
    """For all workers; a longer pause, or one that people have to end, is not shortened."""
    await sql.execute(_PAUSE, account, until, by, reason)


async def resume(sql: Sql, account: str) -> bool:
    return (await sql.execute(_RESUME, account)).endswith(" 1")


async def count_failure(sql: Sql, account: str) -> int | None:
    """Failures of the account in a row, this one included; None: it is paused already."""
    found: int | None = await sql.fetchval(_FAILED, account)
    return found


async def take_slot(sql: Sql, account: str, spacing: timedelta) -> float:
    """Seconds until the place in the row that is now ours."""
    found: float = await sql.fetchval(_SLOT, account, spacing)
    return found


async def take_from_window(sql: Sql, account: str, per: str, span: timedelta, most: int) -> float | None:
    """None: there was something left, and it is taken; else in how many seconds there will be."""
    if await sql.fetchval(_WINDOW, account, per, span, most) is not None:
        return None
    found: float = await sql.fetchval(_WINDOW_ENDS, account, per, span)
    return found


async def waiting(sql: Sql, account: str, stream: str, *, default: bool, within: timedelta, most: int) -> int:
    """How many sends of one stream wait to go through the account now, or within that time; `most` are counted.

    `default`: also those that name no account.
    """
    found: int = await sql.fetchval(_WAITING, account, stream, default, within, max(most, 0))
    return found


async def used(sql: Sql, account: str, per: str, span: timedelta) -> int:
    """What is taken from the window as it is now."""
    found: int | None = await sql.fetchval(_USED, account, per, span)
    return found or 0


async def give_back(sql: Sql, account: str, pers: Sequence[str]) -> None:
    """What was taken from windows, and is not used."""
    if pers:
        await sql.execute(_GIVE_BACK, account, list(pers))


async def prove(sql: Sql, told: Sequence[tuple[UUID, str | None]]) -> int:
    """Sends whose outcome was not known, and that events tell of; returns how many."""
    if not told:
        return 0
    ids, messages = zip(*told, strict=True)
    return int((await sql.execute(_PROVEN, list(ids), list(messages))).rpartition(" ")[2])
