"""From deliveries to committed rows: authenticate -> parse -> read -> normalize -> write -> answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import Any, Final

import structlog

from receiver.contract import Answer, Delivery, Item, SourceSettings, UnreadableItem
from receiver.errors import Reason, Refused, Unavailable, Unreadable
from receiver.event import Reading
from receiver.ingest.head import request_head
from receiver.ingest.mangled import MangledBodies
from receiver.ingest.normalize import row_of, rows_of
from receiver.ingest.refusals import Refusals
from receiver.ingest.writer import Waiting, Writer
from receiver.networks import among
from receiver.sources import Source
from receiver.store.intake import Quarantined, Row
from receiver.vault import Vault

log = structlog.get_logger("ingest")

MAX_ITEMS: Final = 20_000  # in one delivery; no provider documents more than 5,000
MAX_UNREADABLE: Final = 100  # items of one delivery that are quarantined one by one
OUTCOMES: Final = ("stored", "refused", "again", "handshake", "challenged")  # of a request, as `counts` has them
PART: Final = 250  # items of a delivery that are read before others have their turn

_AGAIN: Final = (("retry-after", "30"),)


class Receipt(Waiting):
    """One delivery on its way to the table.

    `deadline`: by `time.monotonic()`; after it the provider is asked to try again. `answer` is called once.
    `open`: it has not come to its end yet; what remains may be waiting for a commit. `outcome`, `status`: of that.
    """

    __slots__ = (
        "answer", "delivery", "items", "open", "outcome", "part", "payload", "proof", "read", "readings", "source",
        "status", "unreadable",
    )  # fmt: skip
    rows: list[Row]

    def __init__(
        self, source: Source, delivery: Delivery, *, deadline: float, answer: Callable[[Answer], None]
    ) -> None:
        self.rows = []
        self.quarantined = ()
        self.deadline = deadline
        self.settled = self.contended = False
        self.source = source
        self.delivery = delivery
        self.answer = answer
        self.open = True
        self.outcome = "stored"
        self.status = source.provider.reply.stored
        self.payload: Any = None  # see `Authentic`, `proof` too
        self.proof: bytes | None = None
        self.items: Iterator[Item | UnreadableItem] | None = None  # those that are not read yet
        self.part: Sequence[Item | UnreadableItem] = ()  # those in hand
        self.read = 0
        self.readings: Sequence[tuple[Item, Reading]] = ()  # of those in hand
        self.unreadable: list[tuple[str, bytes]] = []


class Ingest:
    """What receiving needs, put together once. `counts` is keyed by (what, source, detail)."""

    def __init__(self, writer: Writer, vault: Vault, refusals: Refusals) -> None:
        self._writer = writer
        self._vault = vault
        self._refusals = refusals
        self._mangled = MangledBodies()
        self.counts: Counter[tuple[str, str, str]] = Counter()

    async def receive(self, receipts: Sequence[Receipt]) -> None:
        """Take deliveries; each is answered once. A success means that everything authentic in it is committed.

        All take one step before any takes the next: code that runs many times in a row runs several times faster.
        """
        await self._authenticate(receipts)
        unread = [one for one in receipts if one.open]
        while unread:
            self._take(_parse, unread)
            self._take(_read, unread)
            self._normalize(unread)
            unread = [one for one in unread if one.open and len(one.part) == PART]
            if unread:
                await asyncio.sleep(0)  # a large batch lets the others have their turn
        self._take(self._store, receipts)

    async def _authenticate(self, receipts: Sequence[Receipt]) -> None:
        for one in receipts:
            try:
                if one.source.settings.allow_from:
                    check_address(one.source.settings, one.delivery)
                authentic = await one.source.provider.authenticate(one.delivery)
            except Refused as refusal:
                await self._refuse(one, refusal)
            except (Unreadable, Unavailable) as error:
                self._failed(one, error)
            except Exception:  # a fault of ours, and nothing is proven: nothing is kept, and the provider comes again
                log.exception("cannot authenticate", action="authenticate_failed", source=one.source.name)
                self.put_off(one)
            else:
                one.payload, one.proof = authentic.payload, authentic.proof
                if authentic.answer is not None:
                    self._end(one, "handshake", authentic.answer)

    def _take(self, step: Callable[[Receipt], None], receipts: Sequence[Receipt]) -> None:
        for one in receipts:
            if one.open:
                try:
                    step(one)
                except Exception as error:  # noqa: BLE001 - each kind is told apart there
                    self._failed(one, error)

    def _normalize(self, receipts: Sequence[Receipt]) -> None:
        """Their rows. Those of one source are made together: what is the same for all is then looked up once."""
        for (source, at), several in groupby([one for one in receipts if one.open], key=_SOURCE_AND_TIME):
            group = list(several)
            try:
                rows = iter(rows_of(source, chain.from_iterable([one.readings for one in group]), at))
            except Exception:  # noqa: BLE001 - found again, and told apart, for each alone
                self._take(_normalize_alone, group)
            else:
                for one in group:
                    one.rows += islice(rows, len(one.readings))

    def _failed(self, one: Receipt, error: Exception) -> None:
        if isinstance(error, Unavailable):
            log.warning("try again", action="unavailable", source=one.source.name, why=str(error))
            self.put_off(one)
        elif isinstance(error, Unreadable):
            self._quarantine_all(one, "delivery", str(error), one.source.provider.reply.stored)
        else:  # a fault in the provider's file: what is authentic is kept, and a retry would not help
            log.error("cannot read a delivery", action="parse_failed", source=one.source.name, exc_info=error)
            self._quarantine_all(one, "delivery", _fault(error), one.source.provider.reply.stored)

    def _end(self, one: Receipt, outcome: str, answer: Answer) -> None:
        self.counts["request", one.source.name, outcome] += 1
        one.open = False
        one.answer(answer)

    def put_off(self, one: Receipt) -> None:
        """Nothing was promised: its provider is asked to come again."""
        self._end(one, "again", again(one.source))

    # What is kept -------------------------------------------------------------------------------------------------

    def _store(self, one: Receipt) -> None:
        one.open = False
        if one.unreadable:
            one.quarantined = self._unreadable(one)
        self._writer.put(one, self)

    def _unreadable(self, one: Receipt) -> list[Quarantined]:
        if len(one.unreadable) > (1 if one.proof else MAX_UNREADABLE):  # as one entry, or a sender would fill the table
            why = f"{len(one.unreadable)} items cannot be read, the first: {one.unreadable[0][0]}"
            return [self._entry(one, "delivery", why, one.delivery.body)]
        return [self._entry(one, "item", why, body) for why, body in one.unreadable]

    def _quarantine_all(self, one: Receipt, kind: str, why: str, status: int) -> None:
        """Keep a whole authentic delivery that gave no events, then answer `status`."""
        one.open = False
        one.outcome, one.status = "stored" if kind == "delivery" else "refused", status
        one.rows, one.quarantined = [], [self._entry(one, kind, why, one.delivery.body)]
        self._writer.put(one, self)

    def committed(self, one: Receipt, why: str | None) -> None:
        """For the writer: what the delivery came to is in the table, or why it may not be."""
        if why is not None:
            log.warning("try again", action="unavailable", source=one.source.name, why=why)
            self.put_off(one)
            return
        for entry in one.quarantined:
            self.counts["quarantined", one.source.name, ""] += 1
            if entry.kind != "item":
                log.warning("quarantined", action="quarantined", source=entry.source, kind=entry.kind, why=entry.why)
        self._end(one, one.outcome, _ANSWERS[one.status])

    def set_aside(self, one: Receipt, row: Row, why: str) -> Quarantined:
        """For the writer: the entry of a row that Postgres cannot hold."""
        return self._entry(one, "item", why, str(row[_RAW]).encode(errors="replace"))

    def _entry(self, one: Receipt, kind: str, why: str, body: bytes) -> Quarantined:
        """A row of quarantine. One signature gives one row, even where it covers no body (`Authentic.proof`)."""
        return Quarantined(
            source=one.source.name,
            provider=one.source.provider.name,
            kind=kind,
            why=why[:500],
            fingerprint=hashlib.sha256(body if one.proof is None else one.proof).digest(),
            size=len(body),
            headers=self._vault.encrypt(request_head(one.delivery), context="quarantine"),
            body=self._vault.encrypt(body, context="quarantine"),
            accepted_at=one.delivery.at,
        )

    # What is refused ----------------------------------------------------------------------------------------------

    async def _refuse(self, one: Receipt, refusal: Refused) -> None:
        source, reply, reason, detail = one.source, one.source.provider.reply, refusal.reason, refusal.detail
        if refusal.challenge is not None:
            self._challenge(one, refusal, refusal.challenge)
            return
        answer = again(source) if refusal.again else _answer(reply.refused)
        if refusal.authentic:
            one.proof = refusal.proof
            self._refusals.add(source.name, one.delivery, reason, detail)
            self._quarantine_all(one, "stale", detail, answer.status)
            return
        if reason is Reason.WRONG_KEY and self._refusals.wants(source.name, reason):
            reason, detail = await self._mangled.why_wrong(source, one.delivery, refusal)
        self.refused(source, one.delivery, reason, detail)
        self._end(one, "refused", answer)

    def _challenge(self, one: Receipt, refusal: Refused, challenge: str) -> None:
        answer = Answer(status=401, body=_TEXTS[401], headers=(("www-authenticate", challenge),))
        if refusal.reason in _ASKING:  # no failure, unless nothing follows: then the sample tells why
            self._refusals.add(one.source.name, one.delivery, refusal.reason, refusal.detail)
            self._end(one, "challenged", answer)
            return
        self.refused(one.source, one.delivery, refusal.reason, refusal.detail)
        self._end(one, "refused", answer)

    def refused(self, source: Source, delivery: Delivery, reason: Reason, detail: str) -> None:
        """Count a refused request, and keep it as a sample."""
        self.counts["refused", source.name, reason] += 1
        self._refusals.add(source.name, delivery, reason, detail)


_SOURCE_AND_TIME: Final = attrgetter("source", "delivery.at")
_RAW: Final = -3  # place of `raw` in a row
_ASKING: Final = frozenset({Reason.MISSING_CREDENTIALS, Reason.EXPIRED_TOKEN})
_TEXTS: Final = {
    200: b"ok\n",
    401: b"refused: the signature or the credentials do not fit\n",
    403: b"refused: the signature does not fit\n",
}
_ANSWERS: Final = {status: Answer(status=status, body=_TEXTS.get(status, b"")) for status in range(200, 600)}


def _answer(status: int) -> Answer:
    return _ANSWERS[status]


def again(source: Source) -> Answer:
    """The answer after which this provider tries again."""
    return _AGAINS[source.provider.reply.again]


_AGAINS: Final = {
    status: Answer(status=status, body=b"try again later\n", headers=_AGAIN) for status in range(400, 600)
}


def check_address(settings: SourceSettings, delivery: Delivery) -> None:
    """Refuse a client that is not in `allow_from`."""
    if not among(settings.allow_from, delivery.client):  # the list may be outdated: it may come again
        raise Refused(Reason.ADDRESS_NOT_ALLOWED, "the client's address is not in allow_from", again=True)


def _parse(one: Receipt) -> None:
    """The next items."""
    if one.items is None:
        one.items, one.payload = iter(one.source.provider.parse(one.payload)), None
    one.part = list(islice(one.items, PART))
    one.read += len(one.part)
    if one.read > MAX_ITEMS:
        raise Unreadable(f"more than {MAX_ITEMS} items in one delivery")


def _read(one: Receipt) -> None:
    """Their events. One item that cannot be read costs its neighbours nothing."""
    read, items = one.source.provider.read, one.part
    readings: list[tuple[Any, Reading]] = []
    try:
        for item in items:
            for reading in read(item):  # type: ignore[arg-type]  # it raises for what is no Item
                readings.append((item, reading))  # noqa: PERF401 - a comprehension is one more call for a single event
    except Exception:  # noqa: BLE001 - found again, and told apart, below
        readings = [(item, reading) for item in items for reading in _read_one(one, item)]
    one.readings = readings


def _read_one(one: Receipt, item: Item | UnreadableItem) -> Sequence[Reading]:
    if isinstance(item, UnreadableItem):
        one.unreadable.append((item.why, item.body))
        return ()
    try:
        return one.source.provider.read(item)
    except Unreadable as error:
        one.unreadable.append((str(error), item.text.encode()))
    except Exception as error:  # a fault in a provider's file must not cost the neighbours, nor the item
        log.exception("cannot read an item", action="read_failed", source=one.source.name)
        one.unreadable.append((_fault(error), item.text.encode()))
    return ()


def _normalize_alone(one: Receipt) -> None:
    """The rows of one delivery. An item that none can be made of costs its neighbours nothing."""
    source, at = one.source, one.delivery.at
    try:
        rows = rows_of(source, one.readings, at)
    except Exception:  # noqa: BLE001 - likewise
        rows = [row for item, reading in one.readings for row in _normalize_one(one, item, reading)]
    one.rows += rows


def _normalize_one(one: Receipt, item: Item, reading: Reading) -> Sequence[Row]:
    try:
        return (row_of(one.source, item, reading, one.delivery.at),)
    except Exception as error:  # likewise
        log.exception("cannot normalize an item", action="read_failed", source=one.source.name)
        one.unreadable.append((_fault(error), item.text.encode()))
    return ()


def _fault(error: Exception) -> str:
    return f"a fault of ours: {type(error).__name__}"
