"""The merge: what results does not depend on the order, the repetition or the batches of events, nor on who is beside.

`--hypothesis-profile=thorough` tries far more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver import Event
from receiver.contacts.handling import Contacts
from receiver.contacts.policy import DEFAULT, Policy, Repeated
from receiver.contacts.rules import Rules
from receiver.store.sql import Sql
from receiver.testing import Trial, event
from tests.test_handlers import ENGAGEMENT, SUPPRESSION
from tests.workers import VAULT

START: Final = datetime(2026, 3, 1, tzinfo=UTC)
WORKERS: Final = 8

# So small that a few events make, end and prolong suppressions.
_FEW: Final = Repeated(messages=2, over=timedelta(hours=1), expires=(timedelta(hours=2),))
_PAIR: Final = Repeated(messages=2, over=timedelta(hours=2), expires=(), unless_provider_agrees=True)
RULES: Final = Rules(
    policy=Policy(actions={**DEFAULT, "mailbox_full": _FEW, "soft": _FEW, "bad_domain": _PAIR}),
    trusted=frozenset({"one"}),
    total_complaints=frozenset({"two"}),
)

_BOUNCES: Final = [
    {"bounce_class": "invalid_recipient", "bounce_category": "hard"},
    {"bounce_class": "bad_domain", "bounce_category": "hard", "provider_verdict": "hard"},
    {"bounce_class": "bad_domain", "bounce_category": "hard"},
    {"bounce_class": "undetermined", "bounce_category": "soft"},
    {"bounce_class": "spam_block", "bounce_category": "block"},
    *[{"bounce_class": "mailbox_full", "bounce_category": "soft"}] * 4,
]
_TYPES: Final = [
    *("sent", "delivered", "opened", "clicked", "complained", "unsubscribed", "subscribed", "rejected", "inbound"),
    *["bounced"] * 6,
]
_EVENTS: Final = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.integers(1, 10**9),
            "recipient": st.sampled_from(["a@example.com", "a@example.com", "b@gmail.com"]),
            "type": st.sampled_from(_TYPES),
            "hour": st.integers(0, 8),
            "message_id": st.sampled_from([None, "m1", "m2", "m3", "m4"]),
            "echo": st.sampled_from([False, False, False, True]),
            "attribution": st.sampled_from([None, None, None, "ambiguous"]),
            "brand": st.sampled_from([None, "acme"]),
            "topic": st.sampled_from([None, "news"]),
            "bounce": st.sampled_from(_BOUNCES),
            "reject_reason": st.sampled_from(["bounced", "invalid", "complained", "unsubscribed"]),
            "source": st.sampled_from(["one", "two"]),
            "actor": st.sampled_from([None, "human", "machine"]),
        }
    ),
    max_size=20,
    unique_by=lambda row: row["id"],
)

# All that is kept about people, but for numbers and times of the database's own.
_TABLES: Final = {
    "contacts": "to_jsonb(t) - '{id, created_at, updated_at}'::text[]",
    "subscriptions": "to_jsonb(t)",
    "suppressions": "to_jsonb(t) - 'created_at'",
    "bounces": "to_jsonb(t)",
    "consent_log": "to_jsonb(t) - '{id, recorded_at}'::text[]",
}
_STATE: Final = " UNION ALL ".join(
    f"SELECT '{table}' AS name, ({row})::text AS row FROM {table} t" for table, row in _TABLES.items()
)


def _event(row: dict[str, Any]) -> Event:
    row = dict(row)
    bounce, hour = row.pop("bounce"), row.pop("hour")
    columns = row | {"id": UUID(int=row["id"]), "occurred_at": START + timedelta(hours=hour)}
    if row["type"] == "bounced":
        columns |= bounce
    if row["type"] != "rejected":
        del columns["reject_reason"]
    if row["type"] not in ("opened", "clicked"):
        del columns["actor"]
    return event(columns.pop("type"), **columns)


def _again(chance: random.Random, events: list[Event]) -> list[list[Event]]:
    """The same events in another order, some of them repeated, in batches of random sizes."""
    again = events + chance.choices(events, k=len(events)) if events else []
    chance.shuffle(again)
    batches: list[list[Event]] = [[]]
    for one in again:
        batches[-1].append(one)
        if chance.random() < 0.4:
            batches.append([])
    return batches


async def _state(sql: Sql) -> list[tuple[str, str]]:
    return [(row["name"], row["row"]) for row in await sql.fetch(f"{_STATE} ORDER BY 1, 2")]


async def _serial(dsn: str, batches: Sequence[Sequence[Event]]) -> list[tuple[str, str]]:
    """What is kept after both handlers have seen the batches, in this order."""
    async with Trial(dsn, vault=VAULT, rules=RULES) as trial:
        for batch in batches:
            await trial.run(SUPPRESSION, *batch)
            await trial.run(ENGAGEMENT, *batch)
        return await _state(trial.sql)


async def _examples(share: int, same: Callable[[list[Event], random.Random], Awaitable[None]]) -> None:
    """Run the check on many lists of events; `share`: of how many examples one is tried here."""
    loop = asyncio.get_running_loop()

    @settings(
        max_examples=settings().max_examples // share, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    @given(_EVENTS, st.integers())
    def run(rows: list[dict[str, Any]], seed: int) -> None:
        work = same([_event(row) for row in rows], random.Random(seed))
        asyncio.run_coroutine_threadsafe(_awaited(work), loop).result(60)

    await asyncio.to_thread(run)


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def test_any_order_of_events(database: str) -> None:
    """shuffled, repeated and cut into other batches, the same events leave the same of everything"""

    async def same(events: list[Event], chance: random.Random) -> None:
        assert await _serial(database, _again(chance, events)) == await _serial(database, [events])

    await _examples(4, same)


async def test_eight_at_once(database: str) -> None:
    """eight connections that merge events of the same contacts at once end as one that merges them in a row"""
    pool = await asyncpg.create_pool(database, min_size=WORKERS, max_size=WORKERS)

    async def work(batches: list[list[Event]]) -> None:
        while batches:
            batch = batches.pop()
            for merge in (Contacts.record, Contacts.heed):
                async with pool.acquire() as connection, connection.transaction():
                    await merge(Contacts(connection, VAULT, RULES), batch)

    async def same(events: list[Event], chance: random.Random) -> None:
        batches = _again(chance, events)
        await asyncio.gather(*(work(batches) for _ in range(WORKERS)))
        found = await _state(pool)
        await pool.execute(f"TRUNCATE {', '.join(_TABLES)} CASCADE")
        assert found == await _serial(database, [events])

    try:
        await _examples(5, same)
    finally:
        await pool.close()
