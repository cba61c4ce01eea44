"""Rows that are too old, deleted a range of blocks at a time.

One pass over the table, in transactions of a fraction of a second, whatever its indexes: a table whose front is
deleted and filled again is no longer in the order of time that a BRIN index needs. New rows take the space again once
autovacuum has passed, so a table settles at its steady size and about a fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from receiver.retention_settings import RetentionSettings
from receiver.store.steps import Done, Progress, Report

BLOCKS: Final = 256  # 2 MB: some 40,000 ids

OPEN_QUARANTINE: Final = "quarantine, open"
_BLOCKS: Final = "SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint"


@dataclass(frozen=True, slots=True)
class RowRule:
    """Rows of `table` that match `where` go when `at`, a time of theirs in SQL, is older than `keep`; None: never."""

    part: str
    table: str
    setting: str
    at: str
    where: str
    keep: timedelta | None


def row_rules(rules: RetentionSettings) -> Sequence[RowRule]:
    """The rules for tables that go row by row."""
    return (
        RowRule("ids", "event_ids", "ids", "seen_at", "true", rules.ids),
        RowRule("refused", "refused", "refused", "refused_at", "true", rules.refused),
        RowRule(
            "quarantine, resolved", "quarantine", "quarantine_resolved", "resolved_at", "resolved_at IS NOT NULL",
            rules.quarantine_resolved,
        ),
        RowRule(
            OPEN_QUARANTINE, "quarantine", "quarantine_open", "received_at", "resolved_at IS NULL",
            rules.quarantine_open,
        ),
        # A retry of a letter needs its copy of the event. Attempts go with their letter, or when the event is handled;
        # those left over are of events that the release before has handled, or whose retry was deleted by hand.
        RowRule(
            "dead letters, resolved", "dead_letters", "dead_letters", "resolved_at",
            "resolved_at IS NOT NULL AND NOT EXISTS (SELECT FROM retries WHERE dead_letter_id = dead_letters.id)",
            rules.dead_letters,
        ),
        RowRule(
            "attempts, left over", "attempts", "dead_letters", "at",
            "dead_letter_id IS NULL AND NOT EXISTS (SELECT FROM retries"
            " WHERE retries.handler = attempts.handler AND retries.event_id = attempts.event_id)",
            rules.dead_letters,
        ),
        RowRule("dead letters, open", "dead_letters", "", "dead_at", "resolved_at IS NULL", None),
        RowRule(
            "attempts, in use", "attempts", "", "at",
            "(dead_letter_id IS NOT NULL OR EXISTS (SELECT FROM retries"
            " WHERE retries.handler = attempts.handler AND retries.event_id = attempts.event_id))",
            None,
        ),
        # From its end on: one may have been queued a year before it was due.
        RowRule(
            "sends, ended", "sends", "sends", "coalesce(settled_at, created_at)",
            "state IN ('sent', 'unknown', 'failed', 'skipped', 'cancelled')",
            rules.sends,
        ),
        RowRule("requests to the API", "api_requests", "", "created_at", "true", timedelta(days=1)),
        RowRule("mailed links, run out", "confirmations", "", "expires_at", "true", timedelta(days=30)),
        RowRule(
            "imports, finished", "imports", "audit_log", "finished_at", "finished_at IS NOT NULL", rules.audit_log
        ),
        RowRule("verdicts on clicks", "click_verdicts", "events", "judged_at", "true", _with_partition(rules.events)),
        RowRule("alerts, ended", "alerts", "alerts", "resolved_at", "resolved_at IS NOT NULL", rules.alerts),
        RowRule("audit log", "audit_log", "audit_log", "at", "true", rules.audit_log),
    )  # fmt: skip


def _with_partition(keep: timedelta | None) -> timedelta | None:
    """Events go by whole partitions, of a month at most: what is said about them stays as long."""
    return None if keep is None else keep + timedelta(days=31)


async def is_due(connection: asyncpg.Connection, rule: RowRule, before: datetime) -> bool:
    """Whether there is any row that the rule takes. Reads the whole table where there is none."""
    old = f"SELECT EXISTS (SELECT FROM {rule.table} WHERE {rule.at} < $1 AND {rule.where})"
    return bool(await connection.fetchval(old, before, timeout=600))


async def prune(connection: asyncpg.Connection, rule: RowRule, report: Report) -> None:
    """Delete what the rule says."""
    if rule.keep is None:
        return
    before = await connection.fetchval("SELECT clock_timestamp() - $1::interval", rule.keep)
    if not await is_due(connection, rule, before):
        return
    total, gone = await connection.fetchval(_BLOCKS, rule.table), 0
    for start in range(0, total, BLOCKS):
        tag = await connection.execute(
            f"DELETE FROM {rule.table} WHERE ctid >= '({start},0)' AND ctid < '({start + BLOCKS},0)' "
            f"AND {rule.at} < $1 AND {rule.where}",
            before,
        )
        gone += int(tag.split()[-1])
        await report(Progress(rule.part, rule.table, min(start + BLOCKS, total), total))
    if gone:
        await report(Done(rule.part, rule.table, gone))
