"""Reading a lane: one shard after the other, in small pages, on a connection of its own, and no faster than asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from receiver.dispatch.database import Database
from receiver.dispatch.reader import LogConnection
from receiver.store.lanes import Lane, read_lane
from receiver.store.leases import Leased
from receiver.store.log import Page

_PAGE: Final = 100  # events; small, so that the handler's own batches take their turn between them


class LaneReader:
    """The pages of one lane's shards. `share`: the part of the lane that this worker reads, which bounds its rate."""

    def __init__(self, lane: Lane, connection: LogConnection, database: Database, *, batch: int) -> None:
        self._lane = lane
        self._connection = connection
        self._database = database
        self._batch = min(batch, _PAGE)
        self._allowed = 0.0
        self._counted_at = time.monotonic()
        self.share = 1.0

    async def next(self, held: Sequence[Leased]) -> list[tuple[Leased, Page]]:
        """A page of the first shard that is not finished; nothing where the rate does not allow it yet.

        Raises DatabaseGone.
        """
        leased = next((one for one in held if not _finished(one)), None)
        limit = self._batch if self._lane.rate is None else min(self._batch, self._allowance(self._lane.rate))
        if leased is None or limit < 1:
            return []
        page = await self._read(leased, limit)
        self._allowed -= len(page.events)
        return [(leased, page)]

    async def _read(self, leased: Leased, limit: int) -> Page:
        assert leased.bound is not None
        async with self._connection.use() as (connection, _):
            page = await read_lane(
                connection, leased.shard, leased.cursor, leased.bound, since=self._lane.since, limit=limit
            )
        self._database.back()
        return page

    def _allowance(self, rate: float) -> int:
        """How many events may be read now: what was not used is kept for two seconds."""
        now = time.monotonic()
        rate *= self.share
        self._allowed = min(self._allowed + (now - self._counted_at) * rate, max(rate * 2, 1.0))
        self._counted_at = now
        return int(self._allowed)


def _finished(leased: Leased) -> bool:
    at, bound = leased.cursor, leased.bound
    assert bound is not None
    return (at.gen, at.txid, at.position) >= (bound.gen, bound.txid, bound.position)
