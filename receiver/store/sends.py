"""The outbox: what handlers have asked to send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from receiver.store.sql import Sql

_QUEUE: Final = """
INSERT INTO sends (key, recipient, template, stream, topic, data, cancel_on, not_before, handler, event_id)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::text[], now() + $8::interval, $9, $10)
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
) -> UUID | None:
    """Queue one send; returns its id, or None where the key was queued before."""
    text = msgspec.json.encode(data).decode()
    found: UUID | None = await sql.fetchval(
        _QUEUE, key, recipient, template, stream, topic, text, list(cancel_on), delay, handler, event_id
    )
    return found
