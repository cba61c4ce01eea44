"""Sends what is due: leases, guard, rate limits, the transport, and what became of it. Any number of processes may.

A message is marked as begun, and that is committed, before anything is said to a transport. So a process that dies in
the middle leaves behind that nobody knows: transactional mail is then sent again, marketing mail is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from math import ceil
from time import monotonic
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from receiver.sending.accounts import Account, default_accounts
from receiver.sending.finding import can_be_asked
from receiver.sending.guard import Check, check
from receiver.sending.known import behind, facts_of
from receiver.sending.message import Message
from receiver.sending.settling import Begun, Bounced, Settling, away
from receiver.sending.templates import Unfit
from receiver.sending.transport import Outcome, Unknown
from receiver.sending.turns import Full, take_turn
from receiver.sending_settings import SendingSettings
from receiver.store import outbox
from receiver.store.connect import AWAY, create_pool, is_away
from receiver.store.sql import Sql
from receiver.store.tasks import this_process
from receiver.vault import Vault

log = structlog.get_logger("sending")

POLL: Final = 1.0  # seconds between looks at the outbox while nothing is due
RECOVER: Final = 15.0  # seconds
LEASE: Final = timedelta(seconds=60)
RENEW: Final = 15.0  # seconds
CHORES: Final = 5.0  # seconds
GRACE: Final = 25.0  # seconds that messages in hand get at the end
CLEANING: Final = 5.0  # seconds for what was cancelled then, and for saying goodbye
PATIENCE: Final = 30.0  # seconds without an answer after which a connection counts as lost
# A transaction waits for nobody but us. The last is for one whose process or connection died without a word.
_SETTINGS: Final = {"lock_timeout": "10s", "idle_in_transaction_session_timeout": "60s"}
FULL: Final = 60.0  # seconds, at most, until an account whose limit is reached is asked again: turns are given back

Compose = Callable[[Sql, asyncpg.Record, Account], Awaitable[Message]]
Chore = Callable[[asyncpg.Pool], Awaitable[None]]


class Sender:
    """Sends through the accounts until told to stop. `compose` makes a message of a row of `sends`.

    `bounced` is told of recipients that a server refused through an account, in a transaction.
    `chores`: what else there is to do every few seconds; none waits for another.
    """

    def __init__(
        self,
        *,
        dsn: str,
        accounts: Mapping[str, Account],
        compose: Compose,
        bounced: Bounced,
        rules: SendingSettings,
        vault: Vault,
        chores: Sequence[Chore] = (),
    ) -> None:
        self._dsn = dsn
        self._accounts = accounts
        self._compose = compose
        self._rules = rules
        self._vault = vault
        self._chores = chores
        self._asked = [name for name, one in accounts.items() if can_be_asked(one.settings)]
        self._worker = this_process()
        self._pool: asyncpg.Pool | None = None
        self._tasks: dict[asyncio.Task[None], UUID] = {}  # two may be of one send, which was released meanwhile
        self._busy: Counter[str] = Counter()
        self._answered: set[str] = set()  # accounts whose server has answered
        self._full: dict[tuple[str, str], float] = {}  # until when (monotonic), by account and stream
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._suppression: str | None = "nobody has looked yet"
        self._looked = asyncio.Event()
        self._troubles: dict[str, str] = {}  # by what was tried
        self.counts: Counter[tuple[str, str]] = Counter()  # (account, outcome)
        self._settling = Settling(bounced, rules, self.counts)

    def wake(self) -> None:
        """Something may be due."""
        self._wake.set()

    def trouble(self) -> str | None:
        """Why nothing may be going out, or None."""
        return next(iter(self._troubles.values()), self._settling.trouble)

    def counted(self) -> Mapping[tuple[str, str], int]:
        """How many, by account and outcome."""
        return dict(self.counts)

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set; messages in hand are finished then, within GRACE seconds."""
        size = min(self._rules.concurrency, 10) + 2
        self._pool = await create_pool(
            self._dsn, name="receiver sending", size=size, settings=_SETTINGS, command_timeout=PATIENCE
        )
        keeping = [
            asyncio.create_task(self._every("recover", RECOVER, self._look_after)),
            asyncio.create_task(self._every("renew", RENEW, self._renew)),
            *(
                asyncio.create_task(self._every(f"chore {number}", CHORES, partial(chore, self._pool)))
                for number, chore in enumerate(self._chores)
            ),
        ]
        stopping = asyncio.create_task(stop.wait())
        looking = asyncio.create_task(self._looked.wait())  # marketing mail would be held for nothing
        await asyncio.wait([stopping, looking], return_when=asyncio.FIRST_COMPLETED)
        looking.cancel()
        claiming = asyncio.create_task(self._claim_all(stopping))
        try:
            await asyncio.wait([stopping, claiming], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([claiming], timeout=CLEANING)
            if claiming.done():
                claiming.result()
        finally:
            self._stopping.set()
            stopping.cancel()
            claiming.cancel()  # what it takes from now on would have no time left; its lease gives it back
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=GRACE)
            await self._end([claiming, *keeping, *self._tasks])

    async def _claim_all(self, stopping: asyncio.Task[bool]) -> None:
        while not stopping.done():
            self._wake.clear()
            if not await self._claim():
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait([stopping, waking], timeout=POLL, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Cancel what is left, and close; nothing of that waits for a server that is silent."""
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=CLEANING)
        self._sql.terminate()
        closing = [asyncio.create_task(one.transport.aclose()) for one in self._accounts.values()]
        await asyncio.wait([*tasks, *closing], timeout=CLEANING)
        await asyncio.gather(*(one for one in (*tasks, *closing) if one.done()), return_exceptions=True)

    # Looking after the outbox ----------------------------------------------------------------------------------------

    async def _every(self, name: str, seconds: float, what: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await what()
                self._troubles.pop(name, None)
            except AWAY as error:
                self._troubles[name] = away(error)
                log.warning("the outbox was not looked after", action="sending_failed", error=type(error).__name__)
            except Exception as error:  # a fault of ours must not end for good what else is to be looked after
                self._troubles[name] = f"the outbox is not looked after: {type(error).__name__}"
                log.exception("the outbox was not looked after", action="sending_failed")
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311 - spreads processes

    async def _look_after(self) -> None:
        assert self._pool is not None
        async with self._pool.acquire() as sql:
            for id_, state in await outbox.recover(sql):
                log.warning("took a message back", action="send_recovered", send=str(id_), state=state)
            await outbox.send_again(
                sql,
                self._rules.reconcile,
                most=self._rules.max_attempts,
                within=self._rules.deadline,
                asked=self._asked,
            )
            for id_ in await outbox.expire(sql, self._rules.deadline):
                log.warning("a message is too late", action="send_expired", send=str(id_))
            self._suppression = await behind(sql)
        self._looked.set()

    async def _renew(self) -> None:
        if self._tasks and self._pool is not None:
            await outbox.renew(self._pool, list(self._tasks.values()), self._worker, LEASE)

    async def _claim(self) -> bool:
        """Begin with what is due; False where nothing was, or nothing more can be in hand.

        Transactional mail first: a password reset does not stand behind a newsletter.
        """
        began = False
        marketing, transactional = default_accounts(self._accounts)
        try:
            for name in self._accounts:
                for stream, default in (("transactional", transactional), ("marketing", marketing)):
                    free = self._most(name) - self._busy[name]
                    if free > 0 and self._full.get((name, stream), 0) <= monotonic():
                        rows = await outbox.claim(
                            self._sql,
                            account=name,
                            stream=stream,
                            default=name == default,
                            limit=free,
                            worker=self._worker,
                            lease=LEASE,
                        )
                        began = began or bool(rows)
                        for row in rows:
                            self._begin(row, self._accounts[name])
            self._troubles.pop("claim", None)
        except AWAY as error:
            self._troubles["claim"] = away(error)
            await asyncio.sleep(POLL)
        return began

    def _most(self, name: str) -> int:
        """How many of an account may be in hand: one that is limited must not keep the others waiting.

        Nor send at once what has waited for the first connections: until one message has gone, it is one at a time.
        """
        rate = self._accounts[name].settings.per_second
        if rate is not None and name not in self._answered:
            return 1
        return self._rules.concurrency if rate is None else min(self._rules.concurrency, ceil(rate * 3) + 1)

    @property
    def _sql(self) -> asyncpg.Pool:
        assert self._pool is not None
        return self._pool

    def _begin(self, row: asyncpg.Record, account: Account) -> None:
        task = asyncio.create_task(self._one(row, account))
        self._tasks[task] = row["id"]
        self._busy[account.name] += 1

        def done(task: asyncio.Task[None]) -> None:
            del self._tasks[task]
            self._busy[account.name] -= 1
            self._wake.set()

        task.add_done_callback(done)

    # One message -----------------------------------------------------------------------------------------------------

    async def _one(self, row: asyncpg.Record, account: Account) -> None:
        try:
            begun = await self._begun(row, account)
            if begun is not None:
                outcome = await _ask(account, begun[1])
                self._answered.add(account.name)
                await self._settling.surely(self._sql, begun[0], outcome)
        except AWAY as error:  # its lease runs out, and then it is known what that means
            log.warning("a message was left", action="send_left", send=str(row["id"]), error=type(error).__name__)
        except Exception:  # a fault of ours, once it was asked for: likewise
            log.exception("a fault while a message was sent", action="send_fault", send=str(row["id"]))

    async def _begun(self, row: asyncpg.Record, account: Account) -> tuple[Begun, Message] | None:
        """The message, marked as begun; None: it does not go now, and was put back or ended."""
        try:
            if not account.settings.is_limited or await self._may_go(row, account):
                turn = await self._turn(row, account)
                if turn is not None:
                    return await self._made(row, account, turn)
        except Exception as error:  # a fault of ours, or a refusal of the database's: the same the next time
            if is_away(error):
                raise
            log.exception("a message cannot be sent", action="send_fault", send=str(row["id"]))
            await self._give_up(
                row, account, "fault", f"the log tells of a fault of the service: {type(error).__name__}"
            )
        return None

    async def _made(self, row: asyncpg.Record, account: Account, turn: Sequence[str]) -> tuple[Begun, Message] | None:
        begun = None
        try:
            message = await self._compose(self._sql, row, account)
            begun = await self._mark_begun(row, account, message)
        except Unfit as error:
            if await self._may_go(row, account):
                await self._give_up(row, account, error.reason, error.detail)
        finally:
            if begun is None:
                await outbox.give_back(self._sql, account.name, turn)
        return None if begun is None else (begun, message)

    async def _give_up(self, row: asyncpg.Record, account: Account, reason: str, detail: str) -> None:
        if await outbox.keep(self._sql, row["id"], self._worker, "failed", reason=reason, detail=detail):
            self.counts[account.name, "failed"] += 1

    async def _may_go(self, row: asyncpg.Record, account: Account) -> bool:
        """A look before the last one: those that may not go need no turn, and no message that can be written."""
        async with self._sql.acquire() as sql, sql.transaction():
            return await self._guarded(sql, row, account) is not None

    async def _guarded(self, sql: Sql, row: asyncpg.Record, account: Account) -> list[Check] | None:
        """What the guard says where the message may go; None: it was settled, or is not ours any more."""
        found = await outbox.facts(sql, row["id"], account.name, self._vault.address_hash(row["recipient"]))
        if found is None or found["state"] != "leased" or found["worker"] != self._worker:
            return None
        checks = check(facts_of(row, found, self._suppression, self._rules), self._rules)
        last = checks[-1]
        if last.verdict == "go":
            return checks
        skipped = last.verdict == "skip"
        if skipped or not await outbox.was_held(sql, row["id"], last.why):
            outcome = "skipped" if skipped else "held"
            told = [asdict(one) for one in checks]
            await outbox.note(sql, row["id"], row["attempts"], account.name, outcome, last.why, told)
        await outbox.keep(
            sql,
            row["id"],
            self._worker,
            "skipped" if skipped else "queued",
            reason=last.why,
            detail=f"the guard's question was {last.name}",
            not_before=last.until,
        )
        self.counts[account.name, "skipped" if skipped else "held"] += 1
        return None

    async def _turn(self, row: asyncpg.Record, account: Account) -> Sequence[str] | None:
        """Wait for a turn within the account's rates: what it is taken out of.

        None: that would take too long, or we are to stop; the message is put back, as it was. Where a limit is reached
        it is the stream that waits: messages put off would be counted as gone, and others queued in their place.
        """
        turn = await take_turn(self._sql, account, row["stream"])
        if isinstance(turn, Full):
            self._full[account.name, row["stream"]] = monotonic() + min(max(turn.wait, POLL), FULL)
            await self._put_back(row, f"the account's limit for one {turn.per} is reached")
            return None
        if account.settings.per_second is not None:
            spacing = timedelta(seconds=1 / account.settings.per_second)
            wait = await outbox.take_slot(self._sql, account.name, spacing)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait)
        if self._stopping.is_set():
            await outbox.give_back(self._sql, account.name, turn)
            await self._put_back(row, "the process was stopped")
            return None
        return turn

    async def _put_back(self, row: asyncpg.Record, detail: str) -> None:
        await outbox.keep(self._sql, row["id"], self._worker, "queued", reason="rate_limit", detail=detail)

    async def _mark_begun(self, row: asyncpg.Record, account: Account, message: Message) -> Begun | None:
        """The guard's last word, and the mark, in one transaction."""
        async with self._sql.acquire() as sql, sql.transaction():
            if row["stream"] == "marketing":
                await outbox.lock_recipient(sql, row["recipient"])
            checks = await self._guarded(sql, row, account)
            if checks is None:
                return None
            told = [asdict(one) for one in checks]
            begun = await outbox.begin(sql, row["id"], self._worker, account.name, message.message_id, told)
            return None if begun is None else Begun(row, account, *begun)


async def _ask(account: Account, message: Message) -> Outcome:
    try:
        return await account.transport.send(message)
    except Exception as error:  # a fault of ours: nobody knows how far it came
        log.exception("a transport failed", action="transport_failed", account=account.name)
        return Unknown(detail=f"a fault in the transport: {type(error).__name__}")
