"""What became of an attempt is stored: of the send, and of the account. It is not lost with the database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import asyncpg
import structlog

from receiver.sending.accounts import Account
from receiver.sending.outcomes import LONGEST, Settled, has_worked, settled
from receiver.sending.transport import Outcome, Pause, Rejected, Retry, Sent, Unknown
from receiver.sending_settings import SendingSettings
from receiver.store import outbox
from receiver.store.connect import AWAY, FOR_GOOD
from receiver.store.sql import Sql

log = structlog.get_logger("sending")

AGAIN: Final = 1.0  # seconds until an outcome that could not be stored is tried again
LOUD: Final = 60  # times that an outcome cannot be stored, between two errors that say so
REST: Final = timedelta(seconds=30)  # for an account that is asked to wait, and not told how long
BREAKER: Final = 5  # failures of an account in a row

Bounced = Callable[[Sql, asyncpg.Record, str, Rejected], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt that may have left us: its number, and the id of its note."""

    row: asyncpg.Record
    account: Account
    attempt: int
    noted: int


class Settling:
    """Stores outcomes. `bounced` is told of recipients that a server refused, once that is stored, in a transaction.

    `counts`: by account and outcome. `trouble`: why nothing can be stored, or None.
    """

    def __init__(self, bounced: Bounced, rules: SendingSettings, counts: Counter[tuple[str, str]]) -> None:
        self._bounced = bounced
        self._rules = rules
        self._counts = counts
        self.trouble: str | None = None

    async def surely(self, sql: asyncpg.Pool, begun: Begun, outcome: Outcome) -> None:
        """Once the database can be had again: what is not stored now would be sent twice, or stay unknown.

        Raises what would fail in the same way the next time.
        """
        await self._surely("the send", begun, outcome, partial(self._settle, sql, begun, outcome))
        if isinstance(outcome, Rejected) and outcome.recipient:
            await self._surely("the recipient", begun, outcome, partial(self._tell, sql, begun, outcome))

    async def _surely(self, what: str, begun: Begun, outcome: Outcome, store: Callable[[], Awaitable[None]]) -> None:
        send, failures, stored = str(begun.row["id"]), 0, False
        try:
            while not (stored := await self._stored(store)):
                tell = log.error if failures % LOUD == LOUD - 1 else log.warning
                tell("an outcome waits to be stored", action="send_waits", send=send, what=what, why=self.trouble)
                failures += 1
                await asyncio.sleep(AGAIN)
        finally:
            if not stored:  # the process ends, or it would fail again
                lost = type(outcome).__name__
                log.error("an outcome is lost", action="outcome_lost", send=send, what=what, outcome=lost)

    async def _stored(self, store: Callable[[], Awaitable[None]]) -> bool:
        """False: not now."""
        try:
            await store()
        except FOR_GOOD:
            raise
        except AWAY as error:
            self.trouble = away(error)
            return False
        self.trouble = None
        return True

    async def _settle(self, pool: asyncpg.Pool, begun: Begun, outcome: Outcome) -> None:
        row, account = begun.row, begun.account
        if isinstance(outcome, Sent):  # the usual, in one statement
            found = Settled(state="sent", outcome="sent", reason=None, detail=outcome.detail)
            await _store(pool, begun, outcome, found)
        else:
            async with pool.acquire() as sql, sql.transaction():
                now: datetime = await sql.fetchval("SELECT clock_timestamp()")
                blamed = await self._judge_account(sql, account, outcome, now)
                found = settled(row, await outbox.tried(sql, row["id"]), outcome, now, self._rules, blamed=blamed)
                await _store(sql, begun, outcome, found)
        self._counts[account.name, found.outcome] += 1
        log.info("asked to send", action="send", send=str(row["id"]), account=account.name, outcome=found.outcome)

    async def _tell(self, pool: asyncpg.Pool, begun: Begun, why: Rejected) -> None:
        """In a transaction of its own: where that fails, it is still known that the message was refused."""
        async with pool.acquire() as sql, sql.transaction():
            await self._bounced(sql, begun.row, begun.account.name, why)

    async def _judge_account(self, sql: Sql, account: Account, outcome: Outcome, now: datetime) -> bool:
        """Pause the account for everybody where the outcome is about it and not about the message; whether it is."""
        match outcome:
            case Pause(detail=detail):
                await outbox.pause(sql, account.name, None, by=None, reason=detail)
                log.error("an account cannot send", action="account_paused", account=account.name, why=detail)
            case Retry(account=True, after=after, detail=detail):
                await outbox.pause(sql, account.name, now + (after or REST), by=None, reason=detail)
            case Retry(recipient=False, detail=detail) | Unknown(detail=detail):
                failures = await outbox.count_failure(sql, account.name)
                if failures is not None and failures < BREAKER:
                    return False
                if failures is not None:
                    rest = min(REST * 2 ** min(failures - BREAKER, 10), LONGEST)
                    await outbox.pause(sql, account.name, now + rest, by=None, reason=f"{failures} failures: {detail}")
            case _:
                return False
        return True


async def _store(sql: Sql, begun: Begun, outcome: Outcome, found: Settled) -> None:
    await outbox.settle(
        sql,
        begun.row["id"],
        begun.attempt,
        begun.noted,
        state=found.state,
        outcome=found.outcome,
        reason=found.reason,
        detail=found.detail,
        not_before=found.not_before,
        provider_message_id=outcome.provider_message_id if isinstance(outcome, Sent) else None,
        worked=begun.account.name if has_worked(outcome) else None,
    )


def away(error: BaseException) -> str:
    """What trouble it is that the database cannot be used."""
    return f"the database cannot be used: {type(error).__name__}"
