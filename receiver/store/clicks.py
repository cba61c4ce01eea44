"""Verdicts of the detector's second stage: who clicked, judged with all clicks of the message."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from receiver.classify.bursts import BURSTS_VERSION, Click, Judged, judge_clicks
from receiver.event import Actor, Event
from receiver.store.sql import Sql

_AROUND: Final = timedelta(hours=1)
_MOST: Final = 100  # clicks of a message that are looked at: its own and the nearest; anybody can click for ever
_CLICKS: Final = """
SELECT c.id, c.occurred_at, c.url, coalesce(c.actor, 'unknown') AS actor,
       (SELECT count(DISTINCT n.recipient) FROM events n
        WHERE n.type = 'clicked' AND n.client_ip = c.client_ip AND n.source = c.source
          AND n.campaign IS NOT DISTINCT FROM c.campaign
          AND n.occurred_at BETWEEN c.occurred_at - interval '30 seconds' AND c.occurred_at + interval '30 seconds'
          AND n.received_at >= c.occurred_at - interval '1 hour') AS crowd
FROM events c
WHERE c.recipient = $1 AND c.message_id = $2 AND c.type = 'clicked' AND NOT c.is_test
  AND c.occurred_at BETWEEN $3::timestamptz - $4::interval AND $3::timestamptz + $4::interval
ORDER BY c.id <> $5, greatest(c.occurred_at - $3, $3 - c.occurred_at), c.id LIMIT $6
"""
_DELIVERED: Final = """
SELECT min(occurred_at) FROM events WHERE recipient = $1 AND message_id = $2 AND type = 'delivered'
"""
_STORE: Final = """
INSERT INTO click_verdicts AS v (event_id, actor, score, reasons, version)
SELECT id, actor, score, string_to_array(reasons, '|'), $5
FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::text[]) AS judged (id, actor, score, reasons)
ORDER BY id
ON CONFLICT (event_id) DO UPDATE SET actor = excluded.actor, score = excluded.score, reasons = excluded.reasons,
    version = excluded.version, judged_at = now()
"""


async def judge_click(sql: Sql, event: Event) -> Judged:
    """Judge a click with its neighbours, and store what all of them are. To be asked once it has settled."""
    if event.recipient is None or event.message_id is None:
        return Judged(event.actor or Actor.UNKNOWN, 0, ("nothing to compare it with",))
    rows = await sql.fetch(_CLICKS, event.recipient, event.message_id, event.occurred_at, _AROUND, event.id, _MOST)
    delivered: datetime | None = await sql.fetchval(_DELIVERED, event.recipient, event.message_id)
    clicks = [Click(row["id"], row["occurred_at"], row["url"], Actor(row["actor"]), row["crowd"]) for row in rows]
    judged = judge_clicks(clicks, delivered_at=delivered)
    if judged:
        ids, found = list(judged), list(judged.values())
        reasons = ["|".join(one.reasons) for one in found]
        await sql.execute(
            _STORE, ids, [one.actor for one in found], [one.score for one in found], reasons, BURSTS_VERSION
        )
    return judged.get(event.id, Judged(event.actor or Actor.UNKNOWN, 0, ("it is not stored",)))
