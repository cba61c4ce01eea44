"""Events by page, the newest first: each that was there at the first page, once, whatever comes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from receiver.event import Event
from receiver.store.rows import select_list, to_event
from receiver.store.sql import Sql
from receiver.store.where import Where

# As in `queries`: no index has this order, so a page is looked for within a short time first.
_WINDOWS: Final = (timedelta(hours=1), timedelta(days=1), timedelta(days=31))
_SLACK: Final = timedelta(minutes=5)  # no event is received more than this before it occurred
_CONDITIONS: Final = {
    "type": "e.type = ANY ({}::text[])",
    "source": "e.source = {}::text",
    "provider": "e.provider = {}::text",
    "recipient": "e.recipient = {}::text",
    "recipient_domain": "e.recipient_domain = {}::text",
    "message_id": "e.message_id = {}::text",
    "campaign": "e.campaign = {}::text",
    "topic": "e.topic = {}::text",
    "stream": "e.stream = {}::text",
    "tag": "e.tags @> ARRAY[{}::text]",
    "bounce_category": "e.bounce_category = {}::text",
    "bounce_class": "e.bounce_class = {}::text",
    "actor": "e.actor = {}::text",
    "is_test": "e.is_test = {}::boolean",
    "until": "e.occurred_at < {}::timestamptz",
}
_INDEXED: Final = ("recipient", "message_id")


async def page(sql: Sql, wanted: Mapping[str, Any], *, after: tuple[datetime, UUID] | None, limit: int) -> list[Event]:
    """`wanted`: the names above and `since`; None: any. `after`: occurred_at and id of the last page's last event."""
    found: list[Event] = []
    for since in _starts(wanted, after):
        where = Where()
        for name, condition in _CONDITIONS.items():
            where.add(condition, wanted[name])
        where.add("e.occurred_at >= {}::timestamptz", since)
        where.add("e.received_at >= {}::timestamptz", None if since is None else since - _SLACK)
        if after is not None:
            where.add("e.occurred_at <= {}::timestamptz", after[0])
            where.after(("e.occurred_at", "e.id"), ("timestamptz", "uuid"), after, to="<")
        query = f"SELECT {select_list('e')} FROM events e WHERE {where} ORDER BY e.occurred_at DESC, e.id DESC LIMIT "
        rows = await sql.fetch(query + where.parameter(limit), *where.values)
        found = [to_event(row) for row in rows]
        if len(found) >= limit:
            break
    return found


def _starts(wanted: Mapping[str, Any], after: tuple[datetime, UUID] | None) -> Iterator[datetime | None]:
    """From when on to look, further back each time; None: from the beginning."""
    since: datetime | None = wanted["since"]
    if since is None and not any(wanted[name] for name in _INDEXED):
        end = min(filter(None, (wanted["until"], after and after[0], datetime.now(UTC))))
        yield from (end - window for window in _WINDOWS)
    yield since
