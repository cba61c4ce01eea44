"""receive(): authenticate -> parse -> write -> answer, for one delivery."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from receiver.contract import Answer, Authentic, Delivery, Item, UnreadableItem
from receiver.errors import Reason, Refused, Unavailable, Unreadable
from receiver.ingest.head import request_head
from receiver.ingest.mangled import MangledBodies
from receiver.ingest.normalize import row_of
from receiver.ingest.refusals import Refusals
from receiver.ingest.writer import Writer
from receiver.sources import Source
from receiver.store.intake import Quarantined, Row
from receiver.vault import Vault

log = structlog.get_logger("ingest")

RETRY_AFTER: Final = 30  # seconds, in Retry-After
MAX_ITEMS: Final = 20_000  # in one delivery; no provider documents more than 5,000
MAX_UNREADABLE: Final = 100  # items of one delivery that are quarantined one by one
PAUSE_EVERY: Final = 500  # items


class Ingest:
    """What receiving needs, put together once. `counts` is keyed by (what, source, detail)."""

    def __init__(self, writer: Writer, vault: Vault, refusals: Refusals) -> None:
        self._writer = writer
        self._vault = vault
        self._refusals = refusals
        self._mangled = MangledBodies()
        self.counts: Counter[tuple[str, str, str]] = Counter()

    async def receive(self, source: Source, delivery: Delivery, *, deadline: float) -> Answer:
        """Take one delivery and say what to answer. A success means that everything authentic in it is committed.

        `deadline`: by `time.monotonic()`; after it the provider is asked to try again.
        """
        reply = source.provider.reply
        proof = None
        try:
            authentic = await source.provider.authenticate(delivery)
            if authentic.answer is not None:
                return self._answered(source, "handshake", authentic.answer.status, authentic.answer)
            proof = authentic.proof
            rows, quarantined = await self._read(source, delivery, authentic)
            await self._writer.store(rows, quarantined, self._set_aside(source, delivery, proof), deadline=deadline)
        except Refused as refusal:
            return await self._refuse(source, delivery, refusal, deadline)
        except Unreadable as error:
            return await self._quarantine_all(
                source, delivery, "delivery", str(error), proof=proof, status=reply.stored, deadline=deadline
            )
        except Unavailable as error:
            log.warning("try again", action="unavailable", source=source.name, why=str(error))
            return self._answered(source, "again", reply.again)
        self.counts["quarantined", source.name, ""] += len(quarantined)
        return self._answered(source, "stored", reply.stored)

    def refused_unread(self, source: Source, delivery: Delivery, refusal: Refused) -> None:
        """Count and sample a request that was refused before its body was read whole."""
        self.counts["refused", source.name, refusal.reason] += 1
        self.counts["request", source.name, "refused"] += 1
        self._refusals.add(source.name, delivery, refusal.reason, refusal.detail)

    def _answered(self, source: Source, outcome: str, status: int, answer: Answer | None = None) -> Answer:
        self.counts["request", source.name, outcome] += 1
        return answer or _ANSWERS.get(status) or Answer(status=status)

    async def _read(
        self, source: Source, delivery: Delivery, authentic: Authentic
    ) -> tuple[list[Row], list[Quarantined]]:
        rows: list[Row] = []
        unreadable: list[tuple[str, bytes]] = []
        provider, proof = source.provider, authentic.proof
        for number, item in enumerate(_parsed(source, authentic.payload), 1):
            if isinstance(item, UnreadableItem):
                unreadable.append((item.why, item.body))
                continue
            try:
                rows.extend([row_of(source, item, reading, delivery.at) for reading in provider.read(item)])
            except Unreadable as error:
                unreadable.append((str(error), item.text.encode()))
            except Exception as error:  # a fault in a provider's file must not cost the neighbours, nor the item
                log.exception("cannot read an item", action="read_failed", source=source.name)
                unreadable.append((_fault(error), item.text.encode()))
            if number % PAUSE_EVERY == 0:
                if number >= MAX_ITEMS:
                    raise Unreadable(f"more than {MAX_ITEMS} items in one delivery")
                await asyncio.sleep(0)  # a large batch lets the others have their turn
        if len(unreadable) > (1 if proof else MAX_UNREADABLE):  # as one entry, or a sender would fill the table
            why = f"{len(unreadable)} items cannot be read, the first: {unreadable[0][0]}"
            return rows, [self._entry(source, delivery, "delivery", why, delivery.body, proof)]
        return rows, [self._entry(source, delivery, "item", why, body, proof) for why, body in unreadable]

    def _set_aside(self, source: Source, delivery: Delivery, proof: bytes | None) -> Callable[[Row, str], Quarantined]:
        """What the writer calls for a row that Postgres cannot hold."""
        return lambda row, why: self._entry(
            source, delivery, "item", why, str(row[_RAW]).encode(errors="replace"), proof
        )

    def _entry(
        self, source: Source, delivery: Delivery, kind: str, why: str, body: bytes, proof: bytes | None
    ) -> Quarantined:
        """A row of quarantine. One signature gives one row, even where it covers no body (`Authentic.proof`)."""
        return Quarantined(
            source=source.name,
            provider=source.provider.name,
            kind=kind,
            why=why[:500],
            fingerprint=hashlib.sha256(body if proof is None else proof).digest(),
            size=len(body),
            headers=self._vault.encrypt(request_head(delivery), context="quarantine"),
            body=self._vault.encrypt(body, context="quarantine"),
            accepted_at=delivery.at,
        )

    async def _refuse(self, source: Source, delivery: Delivery, refusal: Refused, deadline: float) -> Answer:
        reply = source.provider.reply
        status = reply.again if refusal.again else reply.refused
        reason = refusal.reason
        if refusal.authentic:
            answer = await self._quarantine_all(
                source, delivery, "stale", refusal.detail, proof=refusal.proof, status=status, deadline=deadline
            )
            self._refusals.add(source.name, delivery, reason, refusal.detail)
            return answer
        if reason is Reason.WRONG_KEY and self._refusals.wants(source.name, reason):
            reason, detail = await self._mangled.why_wrong(source, delivery, refusal)
        else:
            detail = refusal.detail
        self.counts["refused", source.name, reason] += 1
        self._refusals.add(source.name, delivery, reason, detail)
        return self._answered(source, "refused", status)

    async def _quarantine_all(
        self,
        source: Source,
        delivery: Delivery,
        kind: str,
        why: str,
        *,
        proof: bytes | None,
        status: int,
        deadline: float,
    ) -> Answer:
        """Keep a whole authentic delivery that gave no events, then answer `status`."""
        entry = self._entry(source, delivery, kind, why, delivery.body, proof)
        try:
            await self._writer.store((), [entry], _never, deadline=deadline)
        except Unavailable:
            return self._answered(source, "again", source.provider.reply.again)
        log.warning("quarantined", action="quarantined", source=source.name, kind=kind, why=why)
        self.counts["quarantined", source.name, ""] += 1
        return self._answered(source, "stored" if kind == "delivery" else "refused", status)


_RAW: Final = -3  # place of `raw` in a row
_ANSWERS: Final = {
    200: Answer(status=200, body=b"ok\n"),
    401: Answer(status=401, body=b"refused: the signature or the credentials do not fit\n"),
    403: Answer(status=403, body=b"refused: the signature does not fit\n"),
    503: Answer(status=503, body=b"try again later\n"),
}


def _never(_row: Row, _why: str) -> Quarantined:
    raise AssertionError("there are no rows")


def _parsed(source: Source, payload: object) -> Iterator[Item | UnreadableItem]:
    """The items of an authentic payload; a fault in the provider's file sends the whole delivery to quarantine."""
    try:
        yield from source.provider.parse(payload)
    except Unreadable:
        raise
    except Exception as error:
        log.exception("cannot parse a delivery", action="parse_failed", source=source.name)
        raise Unreadable(_fault(error)) from error


def _fault(error: Exception) -> str:
    return f"a fault in the provider's file: {type(error).__name__}"
