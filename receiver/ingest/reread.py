"""Reading again what was stored or quarantined, with the present code and settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import structlog

from receiver.contract import Delivery, Item, UnreadableItem
from receiver.errors import Reason, Refused, Unavailable, Unreadable
from receiver.event import Reading
from receiver.ingest.head import delivery_of
from receiver.ingest.normalize import rows_of
from receiver.payload import item_of
from receiver.sources import Source
from receiver.store.intake import COLUMNS, Row
from receiver.store.privacy import Privacy
from receiver.store.reprocessing import READ, values_of
from receiver.vault import Vault

log = structlog.get_logger("reread")

_ID: Final = COLUMNS.index("id")
_WORD: Final = COLUMNS.index("provider_type")
_RECIPIENT: Final = COLUMNS.index("recipient")
_ACCEPTED_AT: Final = COLUMNS.index("accepted_at")
_METADATA: Final = READ.index("metadata")


class Outcome(StrEnum):
    """What came of reading something again; for people."""

    CHANGED = "changed"
    SAME = "unchanged"
    STORED = "stored"
    KNOWN = "known already"
    NO_SOURCE = "no such source is configured"
    NO_RAW = "its raw is not kept any more"
    ANOTHER = "reads as another event"
    UNREADABLE = "cannot be read"
    UNFIT = "the database cannot hold it"
    UNPROVEN = "not proven with the present secrets"
    STALE = "signed too long before it came"
    UNAVAILABLE = "what proves it is away"


@dataclass(frozen=True, slots=True)
class Reread:
    """What one stored event reads as now. `values`: of `store.reprocessing.READ`, where they differ."""

    outcome: Outcome
    type: str | None = None
    values: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """What an entry of the quarantine reads as now. `left`: why it has to stay, or a part of it."""

    rows: Sequence[Row] = ()
    left: Outcome | None = None


class Clock:
    """The time that providers are told while they prove a delivery anew: when it came."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


# Stored events ----------------------------------------------------------------------------------------------------


def reread(sources: Mapping[str, Source], stored: Mapping[str, Any], privacy: Privacy) -> Reread:
    """A row of `events` read again from its `raw`; what the settings leave out goes."""
    source = sources.get(stored["source"])
    if source is None or source.provider.name != stored["provider"]:
        return Reread(Outcome.NO_SOURCE)
    if stored["raw"] is None:
        return Reread(Outcome.NO_RAW)
    # An id from outside the item is not in `raw`; where it is the provider's own for the event, it has a column.
    item = item_of(stored["raw"].encode(), event_id=stored["provider_event_id"])
    rows = _rows(source, item, stored["accepted_at"] or stored["received_at"])
    if not rows:
        return Reread(Outcome.UNREADABLE)
    row = _same_event(rows, stored)
    if row is None:
        return Reread(Outcome.ANOTHER)
    (row,) = privacy.dropped([row])
    values, type_ = values_of(row), str(row[COLUMNS.index("type")])
    if _plain(values) == _plain(tuple(stored[name] for name in READ)):
        return Reread(Outcome.SAME, type_)
    return Reread(Outcome.CHANGED, type_, values)


def _same_event(rows: Sequence[Row], stored: Mapping[str, Any]) -> Row | None:
    """The one of an item's events that the stored one is: that with its id.

    Where the id was made from what lay outside the item, the only one with its word and recipient.
    """
    for row in rows:
        if row[_ID] == stored["id"]:
            return row
    word, recipient = stored["provider_type"], stored["recipient"]
    alike = [row for row in rows if row[_WORD] == word and recipient in (None, row[_RECIPIENT])]
    return alike[0] if len(alike) == 1 else None


def _plain(values: tuple[Any, ...]) -> list[Any]:
    """The values in a form that can be compared: lists, and `metadata` decoded."""
    plain: list[Any] = [list(value) if isinstance(value, tuple) else value for value in values]
    plain[_METADATA] = json.loads(plain[_METADATA])
    return plain


def _rows(source: Source, item: Item | UnreadableItem, at: datetime) -> list[Row] | None:
    """The item's events; None where it cannot be read."""
    if isinstance(item, UnreadableItem):
        return None
    try:
        readings: Iterable[Reading] = source.provider.read(item)
        return rows_of(source, [(item, reading) for reading in readings], at)
    except Unreadable:
        return None
    except Exception:  # a fault in a provider's file must not end the run
        log.exception("cannot read an item", action="read_failed", source=source.name)
        return None


# Quarantine -------------------------------------------------------------------------------------------------------


async def reread_entry(source: Source, vault: Vault, entry: Mapping[str, Any]) -> Release:
    """A row of `quarantine` read again. An entry that gives no event stays. Raises WrongSecretKey."""
    head, body = (vault.decrypt(entry[name], context="quarantine") for name in ("headers", "body"))
    delivery = delivery_of(head, body, source=source.name, at=entry["accepted_at"])
    whole = await _reread_delivery(source, delivery)
    if entry["kind"] != "item" or (whole.rows and whole.left is None):  # an item may be all of its delivery
        return whole
    rows = _rows(source, item_of(body), delivery.at)
    return _release(rows or [], delivery.at, None if rows else Outcome.UNREADABLE)


async def _reread_delivery(source: Source, delivery: Delivery) -> Release:
    try:
        authentic = await source.provider.authenticate(delivery)
        parts = [] if authentic.answer is not None else list(source.provider.parse(authentic.payload))
    except Refused as refusal:
        aged = refusal.authentic or refusal.reason in (Reason.STALE, Reason.FUTURE)
        return Release(left=Outcome.STALE if aged else Outcome.UNPROVEN)
    except Unavailable:
        return Release(left=Outcome.UNAVAILABLE)
    except Unreadable:
        return Release(left=Outcome.UNREADABLE)
    except Exception:  # likewise
        log.exception("cannot read a delivery", action="parse_failed", source=source.name)
        return Release(left=Outcome.UNREADABLE)
    read = [_rows(source, item, delivery.at) for item in parts]
    rows = [row for found in read for row in found or ()]
    return _release(rows, delivery.at, None if rows and None not in read else Outcome.UNREADABLE)


def _release(rows: Sequence[Row], at: datetime, left: Outcome | None) -> Release:
    """`accepted_at` says when the request came, since `received_at` will not."""
    return Release([(*row[:_ACCEPTED_AT], at, *row[_ACCEPTED_AT + 1 :]) for row in rows], left)
