"""The words of this service: what an event is, and what its values can be.

`Reading` is what a provider's item says, in our words, before it is stored.
`Event` is a row of the `events` table, as handlers and the command line see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final
from uuid import UUID
from zlib import crc32

import msgspec

SHARDS: Final = 64  # fixed for ever: an event's shard is stored, and cursors are kept per shard
IDENTITY_VERSION: Final = 1


class EventType(StrEnum):
    """What happened to the message. `deferred`: the provider will try again; `bounced`: it has given up."""

    QUEUED = "queued"
    SENT = "sent"
    REJECTED = "rejected"
    FAILED = "failed"
    BOUNCED = "bounced"
    DEFERRED = "deferred"
    DELIVERED = "delivered"
    AUTORESPONDED = "autoresponded"
    OPENED = "opened"
    CLICKED = "clicked"
    COMPLAINED = "complained"
    UNSUBSCRIBED = "unsubscribed"
    SUBSCRIBED = "subscribed"
    INBOUND = "inbound"
    UNKNOWN = "unknown"


class BounceCategory(StrEnum):
    """What a bounce means for the address. Only `hard` says that the address is dead."""

    HARD = "hard"
    SOFT = "soft"
    BLOCK = "block"
    ADMIN = "admin"
    UNDETERMINED = "undetermined"


class RejectReason(StrEnum):
    """Why the provider held a message back. Only the first four concern the address."""

    BOUNCED = "bounced"
    COMPLAINED = "complained"
    UNSUBSCRIBED = "unsubscribed"
    INVALID = "invalid"
    CONTENT = "content"
    QUOTA = "quota"
    POLICY = "policy"
    OTHER = "other"


class Actor(StrEnum):
    """Who opened or clicked: a person, a scanner or prefetcher, an image proxy that stands for a person."""

    HUMAN = "human"
    MACHINE = "machine"
    PROXY = "proxy"
    UNKNOWN = "unknown"


class Reading(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """One event as a provider's file reads it from an item; all values are the provider's own, not normalized.

    `identity`: the strings that make this event itself, as the provider wrote them (never normalized values):
    word for the type, message id, recipient, time, link, ... `None` hashes the whole raw item instead.
    `identity_time`: the time the id begins with, where the proof does not cover `occurred_at`: otherwise whoever
    changes that time gets a new id for the same identity. `None`: the id begins with `occurred_at`.
    `occurred_at`: aware, UTC; `None` where the provider gives no usable time.
    `verdict`: the provider's own view of a bounce; the classifier weighs it against codes and text.
    `actor`: only where the provider itself flags it.
    """

    type: EventType
    word: str
    identity: Sequence[str | None] | None
    identity_time: datetime | None = None
    occurred_at: datetime | None = None
    provider_event_id: str | None = None
    recipient: str | None = None
    message_id: str | None = None
    internet_message_id: str | None = None
    sender: str | None = None
    verdict: BounceCategory | None = None
    smtp_code: int | None = None
    enhanced_code: str | None = None
    diagnostic: str | None = None
    reject_reason: RejectReason | None = None
    actor: Actor | None = None
    sending_ip: str | None = None
    ip_pool: str | None = None
    remote_mta: str | None = None
    stream: str | None = None
    topic: str | None = None
    campaign: str | None = None
    template_id: str | None = None
    attempt: int | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] | None = None
    subject: str | None = None
    url: str | None = None
    user_agent: str | None = None
    client_ip: str | None = None
    country: str | None = None
    attribution: str | None = None
    echo: bool = False
    is_test: bool = False


def each_recipient(type_: EventType, addresses: Sequence[str]) -> tuple[Sequence[str | None], str | None]:
    """(recipient of each event, attribution) for a report that names several recipients as one.

    What a server did concerns each of them. Who of several opened or clicked is not known: one event of nobody.
    Who of several complained is not known either: one event for each, marked, so that none suppresses by itself.
    """
    if len(addresses) < 2:  # with one there is nothing to tell apart
        return addresses or (None,), None
    if type_ in (EventType.OPENED, EventType.CLICKED):
        return (None,), "ambiguous"
    return addresses, "ambiguous" if type_ is EventType.COMPLAINED else None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A stored event: the columns of `events`, documented in `schema.sql`. Times are aware and UTC."""

    id: UUID
    type: EventType
    source: str
    provider: str
    occurred_at: datetime
    received_at: datetime
    provider_type: str
    shard: int
    gen: int
    txid: int
    position: int
    accepted_at: datetime | None = None
    provider_time: str | None = None
    time_note: str | None = None
    provider_event_id: str | None = None
    recipient: str | None = None
    recipient_domain: str | None = None
    mailbox_provider: str | None = None
    message_id: str | None = None
    internet_message_id: str | None = None
    sender: str | None = None
    sender_domain: str | None = None
    bounce_category: BounceCategory | None = None
    bounce_class: str | None = None
    provider_verdict: str | None = None
    smtp_code: int | None = None
    enhanced_code: str | None = None
    diagnostic: str | None = None
    classifier_version: int | None = None
    reject_reason: RejectReason | None = None
    actor: Actor | None = None
    actor_reasons: list[str] | None = None
    detector_version: int | None = None
    sending_ip: str | None = None
    ip_pool: str | None = None
    remote_mta: str | None = None
    stream: str | None = None
    brand: str | None = None
    topic: str | None = None
    campaign: str | None = None
    template_id: str | None = None
    attempt: int | None = None
    tags: list[str] = []
    metadata: dict[str, Any] = {}
    subject: str | None = None
    url: str | None = None
    user_agent: str | None = None
    client_ip: str | None = None
    country: str | None = None
    attribution: str | None = None
    echo: bool = False
    is_test: bool = False
    raw_altered: bool = False
    raw: str = "null"

    def raw_object(self) -> Any:
        """The provider's own object, decoded from `raw`."""
        return msgspec.json.decode(self.raw)


_VERSION: Final = str(IDENTITY_VERSION)
_NO_TIME: Final = bytes(6)
# A byte with the marks that a UUID of version 8 has there, for each byte.
_MARKED_8: Final = tuple(bytes((0x80 | byte & 0x0F,)) for byte in range(256))
_VARIANT: Final = tuple(bytes((0x80 | byte & 0x3F,)) for byte in range(256))
_encode_identity = msgspec.json.Encoder().encode


def event_id(source: str, identity: Sequence[str | None], occurred_at: datetime | None) -> bytes:
    """The event's id, 16 bytes of a UUID (version 8): 48 bits of its own time in milliseconds, then a SHA-256.

    The hash is over what makes the event itself, as the provider wrote it (`Reading.identity`).
    The same event gives the same id for ever, on every machine; golden vectors are in the tests.
    Without a time the prefix is zero.
    """
    digest = sha256(_encode_identity((_VERSION, source, *identity))).digest()
    if occurred_at is None:
        prefix = _NO_TIME
    elif occurred_at.microsecond:  # few events share such a moment, and looking for it in vain costs more than the sum
        prefix = _millis(occurred_at)
    else:
        prefix = _whole_second(occurred_at)
    return b"".join((prefix, _MARKED_8[digest[0]], digest[1:2], _VARIANT[digest[2]], digest[3:10]))


def _millis(moment: datetime) -> bytes:
    millis = int(moment.timestamp() * 1000)
    return _NO_TIME if millis < 0 else millis.to_bytes(6, "big")  # the year 9999 has room in 48 bits


_whole_second: Final = lru_cache(maxsize=1024)(_millis)  # the events of a batch share few of them


def shard_of(recipient: str | None, message_id: str | None, id_: bytes) -> int:
    """The event's shard, 0 to 63: events of one recipient share one. CRC-32, fixed for ever."""
    key = recipient or message_id
    return crc32(key.encode() if key else id_) % SHARDS


def utc(value: datetime) -> datetime:
    """The same moment in UTC; a naive time is taken as UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
