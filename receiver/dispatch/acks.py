"""Moving cursors: in a handler's transaction, or where it has none those of several handlers in one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias
from uuid import UUID

from receiver.dispatch.database import ENFORCE, OWN_PLANS, Database, DatabaseGone
from receiver.dispatch.transaction import Transaction, TransactionSql
from receiver.store.leases import LeaseLost, Move, Place, ack, ack_unlocked

_Done: TypeAlias = Mapping[Place, str]


class Acks:
    """Moves the cursors that one worker has leased. `ttl`: seconds for which that renews their leases.

    A statement and its commit cost as much as moving twenty cursors, and the handlers of a worker are done with a page
    at about the same time: who comes while a statement is under way goes with the next, together with all others.
    Where somebody else has locked a handler's rows, that handler alone waits for them, in a transaction of its own.
    """

    def __init__(self, database: Database, *, owner: UUID, ttl: float) -> None:
        self._database: Final = database
        self._owner: Final = owner
        self._ttl: Final = ttl
        self._waiting: list[tuple[Sequence[Move], asyncio.Future[_Done]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def move(self, moves: Sequence[Move], transaction: Transaction) -> None:
        """Move the cursors, in the handler's transaction where it has opened one; the caller commits that.

        Raises DatabaseGone, Conflict or LeaseLost.
        """
        done: dict[Place, str] = {}
        if not transaction.opened:
            done.update(await self._together(moves))
        rest = [move for move in moves if move.leased.place not in done]
        if rest:
            sql = TransactionSql(transaction)
            with transaction.own_statements():
                await sql.execute(f"{ENFORCE}; {OWN_PLANS}")
                done.update(await ack(sql, self._owner, rest, ttl=self._ttl))
        if any(move.leased.place not in done for move in moves):
            raise LeaseLost
        for move in moves:
            # If the commit fails, the caller drops these from memory.
            move.leased.cursor, move.leased.tid = move.to, done[move.leased.place]

    async def _together(self, moves: Sequence[Move]) -> _Done:
        future: asyncio.Future[_Done] = asyncio.get_running_loop().create_future()
        self._waiting.append((moves, future))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(), name="acks")  # begins when all of this turn have come
        return await future

    async def _serve(self) -> None:
        """One statement for all who wait, until nobody does. Whatever happens, each of them learns of it."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            moves = [move for theirs, _ in waiting for move in theirs]
            try:
                async with self._database.connection() as connection:
                    done = await ack_unlocked(connection, self._owner, moves, ttl=self._ttl)
            except BaseException as error:
                for _, future in waiting:
                    if not future.done():  # whoever asked may have been cancelled meanwhile
                        future.set_exception(error if isinstance(error, Exception) else DatabaseGone(str(error)))
                if not isinstance(error, Exception):
                    raise
            else:
                for _, future in waiting:
                    if not future.done():
                        future.set_result(done)
