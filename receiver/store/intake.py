"""Writing deliveries: ids first, then the new events by COPY, and what goes to quarantine, in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg

from receiver.store.partitions import MissingPartition, is_missing_partition

if TYPE_CHECKING:
    from receiver.store.privacy import Privacy

MAX_ROWS: Final = 5000  # rows in one transaction; the log's reader relies on short ones (no paging of late rows)

# The rows themselves are the trouble; the second is raised by the driver before Postgres sees them.
BAD_ROWS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.UntranslatableCharacterError,
    ValueError,
    TypeError,
    OverflowError,
)

# The columns that a delivery gives, in the order of a row's tuple; Postgres gives the rest by their defaults.
COLUMNS: Final = (
    "id", "occurred_at", "type", "source", "provider", "provider_type", "recipient", "recipient_domain",
    "mailbox_provider", "message_id", "internet_message_id", "provider_event_id", "sender", "sender_domain",
    "bounce_category", "bounce_class", "provider_verdict", "smtp_code", "enhanced_code", "diagnostic",
    "classifier_version", "reject_reason", "actor", "actor_reasons", "detector_version", "sending_ip", "ip_pool",
    "remote_mta", "stream", "brand", "topic", "campaign", "template_id", "attempt", "tags", "metadata", "subject",
    "url", "user_agent", "client_ip", "country", "attribution", "echo", "is_test", "accepted_at", "provider_time",
    "time_note", "raw", "raw_altered", "shard",
)  # fmt: skip

Row = tuple[Any, ...]

# (source, type, mailbox provider, bounce category) of a row: what events are counted by. All are from closed tables.
kind_of: Final = itemgetter(*map(COLUMNS.index, ("source", "type", "mailbox_provider", "bounce_category")))
_shard_of: Final = itemgetter(COLUMNS.index("shard"))


class Quarantined(NamedTuple):
    """A row of `quarantine`; `headers` and `body` are encrypted already."""

    source: str
    provider: str
    kind: str
    why: str
    fingerprint: bytes
    size: int
    headers: bytes
    body: bytes
    accepted_at: datetime


# One round trip. The settings are LOCAL, so that they also hold behind a pooler that lends connections by transaction.
# A process that is frozen in the middle must not keep its ids locked for ever.
_BEGIN: Final = """
    BEGIN; SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = '15s'; SET LOCAL synchronous_commit = on;
    SET LOCAL idle_in_transaction_session_timeout = '15s'
"""
# What the driver writes behind COPY: both are one message to the server, and one answer. After an error in COPY the
# server leaves the rest out.
_AND_COMMIT: Final = "true; COMMIT"
# A transaction that found duplicates alone has written nothing, so its commit would wait for nobody: not for the
# standby that the first one's commit never reached, because its wait was cut short. Behind an empty record it waits.
_COMMIT_KNOWN: Final = "SELECT pg_logical_emit_message(true, 'receiver', ''); COMMIT"
_ROLLBACK: Final = "ROLLBACK"
# Who erases a person waits for those that had locked event_ids before the tombstone was there. This statement's
# snapshot is newer than its lock, so every other one sees the tombstone.
_NEW_IDS: Final = """
    WITH new AS (INSERT INTO event_ids (id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING id)
    SELECT count(*), EXISTS (SELECT FROM erasures) FROM new
"""
# Those that this transaction has written. Asked only where some were there: to have them all named costs more.
_WHICH_NEW: Final = "SELECT id FROM event_ids WHERE id = ANY ($1::uuid[]) AND xmin = pg_current_xact_id()::xid"
_QUARANTINE: Final = """
    INSERT INTO quarantine (source, provider, kind, why, fingerprint, size, headers, body, accepted_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (source, fingerprint) WHERE resolved_at IS NULL DO NOTHING
"""


async def write(
    connection: asyncpg.Connection,
    rows: Sequence[Row],
    quarantined: Sequence[Quarantined],
    *,
    lock_timeout: int,
    privacy: Privacy,
) -> Collection[Row]:
    """Store rows and quarantine in one transaction; returns the rows that were new.

    `lock_timeout`: milliseconds to wait for another transaction that has just written the same ids. Duplicates, inside
    `rows` and against the table, are ignored. `privacy`: what is left out of the rows. Raises what asyncpg raises, and
    MissingPartition; nothing is stored then.
    """
    await connection.execute(_BEGIN.format(lock=lock_timeout))
    try:
        new = await _new(connection, rows, privacy) if rows else ()
        for entry in quarantined:
            await connection.execute(_QUARANTINE, *entry)
        if new:
            await connection.copy_records_to_table("events", records=new, columns=COLUMNS, where=_AND_COMMIT)
        else:
            await connection.execute(_COMMIT_KNOWN)
    except (asyncpg.PostgresError, ValueError, TypeError, OverflowError) as error:
        # The server has refused a statement, or the driver could not encode a value, and the connection is whole: leave
        # the transaction. After anything else (a lost connection, a cancelled task) the caller drops the connection.
        await connection.execute(_ROLLBACK)
        if isinstance(error, asyncpg.CheckViolationError) and is_missing_partition(error):
            raise MissingPartition(*error.args) from error
        raise
    return new


async def _new(connection: asyncpg.Connection, rows: Sequence[Row], privacy: Privacy) -> Collection[Row]:
    """Rows whose ids were not there, as they are to be stored: by shard, and within one as they came."""
    by_id = {row[0]: row for row in rows}
    # Sorted, because two transactions that insert the same ids in opposite order deadlock.
    ids = sorted(by_id)
    ((count, erased),) = await connection.fetch(_NEW_IDS, ids)
    if not count:
        return ()
    if count < len(ids):
        found = {record[0] for record in await connection.fetch(_WHICH_NEW, ids)}
        by_id = {id_: row for id_, row in by_id.items() if id_ in found}
    # Rows of one recipient and of one stretch of the log's index come one after the other, while the pages that take
    # them are still in the processor's cache; no order is promised across shards.
    new: Collection[Row] = sorted(by_id.values(), key=_shard_of)
    if erased:  # somebody was erased; whose event it is may stand in columns that are left out below
        new = await privacy.hidden(connection, new)
    return privacy.dropped(new) if privacy.drops else new
