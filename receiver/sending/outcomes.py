"""What becomes of a send by what a transport has answered."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from receiver.sending.transport import Outcome, Pause, Rejected, Retry, Sent, Unknown
from receiver.sending_settings import SendingSettings

LONGEST: Final = timedelta(minutes=15)  # between attempts
FIRST: Final = timedelta(seconds=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The next state of a send, and what is noted of the attempt."""

    state: str
    outcome: str
    reason: str | None
    detail: str
    not_before: datetime | None = None


def settled(
    row: asyncpg.Record,
    tried: int,
    outcome: Rejected | Unknown | Pause | Retry,
    now: datetime,
    rules: SendingSettings,
    *,
    blamed: bool,
) -> Settled:
    """`tried`: how often it was tried, this time included, the account's own troubles aside.

    `blamed`: it is the account's trouble, which uses up no message's attempts, however long it lasts.
    """
    match outcome:
        case Rejected(detail=detail, recipient=recipient):
            reason = "recipient_refused" if recipient else "message_refused"
            return Settled(state="failed", outcome="rejected", reason=reason, detail=detail)
        case Unknown(detail=detail):
            return Settled(state="unknown", outcome="unknown", reason="no_answer", detail=detail)
        case Pause(detail=detail):
            return Settled(state="queued", outcome="pause", reason="account_paused", detail=detail)
        case Retry(detail=detail, after=after):
            due = now + max(after or timedelta(0), backoff(tried))
            noted = "pause" if blamed else "retry"
            if (tried >= rules.max_attempts and not blamed) or due > deadline_of(row, rules):
                return Settled(state="failed", outcome=noted, reason="gave_up", detail=detail)
            return Settled(state="queued", outcome=noted, reason="retry", detail=detail, not_before=due)


def has_worked(outcome: Outcome) -> bool:
    """Whether it shows that the account can be used, whatever became of the message."""
    return isinstance(outcome, Sent | Rejected) or (isinstance(outcome, Retry) and outcome.recipient)


def backoff(tried: int) -> timedelta:
    """Anything up to the longest wait for this attempt (full jitter), so that those who failed at once spread."""
    longest: timedelta = min(FIRST * 2 ** min(max(tried - 1, 0), 10), LONGEST)
    return longest * random.uniform(0.1, 1)  # noqa: S311 - no secret


def deadline_of(row: asyncpg.Record, rules: SendingSettings) -> datetime:
    """Until when the send is tried: its own limit, or so long after it was first due (`not_before` moves on)."""
    expires: datetime | None = row["expires_at"]
    deadline: datetime = max(row["created_at"], row["due_at"]) + rules.deadline
    return deadline if expires is None else min(deadline, expires)
