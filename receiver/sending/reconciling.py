"""What became of messages whose outcome is unknown: their providers are asked, some times and slowly."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import asyncpg
import structlog

from receiver.sending.accounts import Account
from receiver.sending.finding import Finder, Found, Lost, can_be_asked, finder_of
from receiver.sending.list_client import ListFault
from receiver.store import tasks, unknown_sends

log = structlog.get_logger("sending")

# After the outcome was missed: a provider's search needs its time, and what it knows late it knows within hours.
ASKS: Final = (
    timedelta(minutes=2),
    timedelta(minutes=8),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=8),
)
UNTIL: Final = timedelta(days=2)  # providers keep what is searched for no longer than some days
EVERY: Final = timedelta(minutes=1)


async def ask_providers(sql: asyncpg.Pool, accounts: Mapping[str, Account]) -> None:
    """Settle what the providers of these accounts can settle: of each, one process at a time and once a minute."""
    for name, account in accounts.items():
        if can_be_asked(account.settings) and await _due(sql, name, 1):
            finder = finder_of(account.settings)
            try:
                await _ask(sql, name, finder)
            finally:
                await finder.client.aclose()


async def _ask(sql: asyncpg.Pool, account: str, finder: Finder) -> None:
    task, owner = f"unknown sends of {account}", tasks.this_process()
    if not await tasks.take(sql, task, owner, every=EVERY):
        return
    for row in await _due(sql, account, finder.per_minute):
        if not await tasks.renew(sql, task, owner) or not await _settle(sql, row, finder):
            break
    await tasks.end(sql, task, owner)


async def _due(sql: asyncpg.Pool, account: str, most: int) -> list[asyncpg.Record]:
    return await unknown_sends.due(sql, account, ASKS, until=UNTIL, limit=most)


async def _settle(sql: asyncpg.Pool, row: asyncpg.Record, finder: Finder) -> bool:
    """Ask about one message, and store the answer; False: the provider did not say, and is left alone for now."""
    number = f"question {row['asks'] + 1} of {len(ASKS)}"
    fault, answer = await _answer(row, finder)
    async with sql.acquire() as connection, connection.transaction():
        if answer is not None:
            detail = f"{finder.provider} was asked, and has taken it ({number})"
            if await unknown_sends.found(connection, row, detail, answer.message_id):
                log.info("a message was found", action="send_found", send=str(row["id"]), account=row["account"])
            return True
        said = "does not know it" if fault is None else f"did not say: {fault}"
        await unknown_sends.not_found(
            connection,
            row,
            f"{finder.provider} was asked, and {said} ({number})",
            reason="not_found" if fault is None else None,
            last=row["asks"] + 1 == len(ASKS),
        )
    return fault is None


async def _answer(row: asyncpg.Record, finder: Finder) -> tuple[str | None, Found | None]:
    """(why it did not say, what it has found)."""
    lost = Lost(
        send_id=row["id"],
        message_id=row["internet_message_id"],
        address=row["address"],
        stream=row["stream"],
        begun_at=row["begun_at"],
    )
    try:
        return None, await finder.find(lost)
    except ListFault as error:
        log.warning("a provider did not say", action="send_not_asked", account=row["account"], why=str(error))
        return str(error), None
    except Exception as error:  # a fault of ours, which must not end the loop
        log.exception("a provider could not be asked", action="send_not_asked", account=row["account"])
        return f"a fault in the question: {type(error).__name__}", None
