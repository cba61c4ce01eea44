"""The outbox: what handlers have asked to send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from receiver.store.sql import Sql

_QUEUE: Final = """
INSERT INTO sends (key, recipient, template, stream, topic, data, cancel_on, not_before, due_at, handler, event_id,
                   brand, account, rule, depth, message, expires_at)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::text[], now() + $8::interval, now() + $8::interval, $9, $10, $11, $12, $13,
        $14, $15::jsonb, $16)
ON CONFLICT (key) DO NOTHING
RETURNING id
"""


async def queue(  # noqa: PLR0913 - the columns of a send
    sql: Sql,
    *,
    key: str,
    recipient: str,
    template: str,
    stream: str,
    topic: str | None,
    data: Mapping[str, Any],
    delay: timedelta,
    cancel_on: Sequence[str],
    handler: str,
    event_id: UUID | None,
    brand: str = "",
    account: str | None = None,
    rule: str | None = None,
    depth: int = 0,
    message: str | None = None,
    expires_at: datetime | None = None,
) -> UUID | None:
    """Queue one send; its id, or None where the key was queued before. `message`: JSON, instead of a template."""
    found: UUID | None = await sql.fetchval(
        _QUEUE,
        key,
        recipient,
        template,
        stream,
        topic,
        msgspec.json.encode(data).decode(),
        list(cancel_on),
        delay,
        handler,
        event_id,
        brand,
        account,
        rule,
        depth,
        message,
        expires_at,
    )
    return found
