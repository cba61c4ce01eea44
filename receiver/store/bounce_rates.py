"""What became of mail, by sender domain and mailbox provider."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from receiver.store.bounce_hours import OUTCOME
from receiver.store.sql import Sql

# Mailbox providers that never tell of single complaints: none seen means nothing there.
_SILENT: Final = ("google",)

_RATES: Final = f"""
SELECT coalesce(sender_domain, '') AS sender_domain, coalesce(mailbox_provider, '') AS mailbox_provider,
       count(*) FILTER (WHERE {OUTCOME}) AS attempted,
       count(*) FILTER (WHERE {OUTCOME} AND type = 'delivered') AS delivered,
       count(*) FILTER (WHERE {OUTCOME} AND bounce_category = 'hard') AS hard,
       count(*) FILTER (WHERE {OUTCOME} AND bounce_category = 'soft') AS soft,
       count(*) FILTER (WHERE {OUTCOME} AND bounce_category = 'block') AS block,
       count(*) FILTER (WHERE type = 'complained' AND NOT is_test AND NOT echo
                          AND attribution IS DISTINCT FROM 'unverified') AS complaints
FROM events_between($1, $2)
WHERE type IN ('delivered', 'bounced', 'complained')
  AND ($3::text IS NULL OR sender_domain = $3) AND ($4::text IS NULL OR mailbox_provider = $4)
GROUP BY 1, 2
HAVING count(*) FILTER (WHERE {OUTCOME} OR type = 'complained') > 0
ORDER BY attempted DESC, 1, 2 LIMIT $5
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Events of a time, by sender domain and mailbox provider (empty: not known). `attempted`: delivered or bounced.

    A rate of nothing is None, not 0; so is that of complaints where a mailbox provider does not tell of them.
    """

    sender_domain: str
    mailbox_provider: str
    attempted: int
    delivered: int
    hard: int
    soft: int
    block: int
    complaints: int

    @property
    def rates(self) -> dict[str, float | None]:
        """Of what was attempted; complaints of what was delivered."""
        told = self.delivered if self.mailbox_provider not in _SILENT else 0
        return {
            "hard_rate": _share(self.hard, self.attempted),
            "soft_rate": _share(self.soft, self.attempted),
            "block_rate": _share(self.block, self.attempted),
            "complaint_rate": _share(self.complaints, told),
        }


async def rates(
    sql: Sql,
    since: datetime,
    until: datetime,
    *,
    sender_domain: str | None = None,
    mailbox_provider: str | None = None,
    limit: int = 50,
) -> list[Rates]:
    """The most mail first."""
    return [Rates(**dict(row)) for row in await sql.fetch(_RATES, since, until, sender_domain, mailbox_provider, limit)]


def _share(count: int, of: int) -> float | None:
    return count / of if of else None
