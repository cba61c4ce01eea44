"""From a provider's reading to a row of `events`: what is the same for every provider."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Final

import msgspec

from receiver.classify.actors import DETECTOR_VERSION, judge
from receiver.classify.addresses import normalize_address
from receiver.classify.bounces import CLASSIFIER_VERSION, classify
from receiver.classify.mailboxes import mailbox_provider
from receiver.contract import Item
from receiver.event import EventType, Reading, event_id, shard_of
from receiver.sources import Source
from receiver.store.intake import Row

AHEAD: Final = timedelta(minutes=5)  # how far a provider's clock may be ahead of ours
INDEXED: Final = 600  # characters of an indexed text: a B-tree entry holds 2,704 bytes
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)

_OPENS_AND_CLICKS: Final = frozenset({EventType.OPENED, EventType.CLICKED})
_FAILURES: Final = frozenset({EventType.BOUNCED, EventType.DEFERRED})
_HELD_BACK: Final = frozenset({EventType.REJECTED, EventType.FAILED})

_NOBODY: Final = (None, None, None)
_NO_SENDER: Final = (None, None)

_mailbox: Final = lru_cache(maxsize=4096)(mailbox_provider)
_encode: Final = msgspec.json.Encoder().encode


def row_of(source: Source, item: Item, reading: Reading, accepted_at: datetime) -> Row:
    """The row, in the order of `store.intake.COLUMNS`."""
    return rows_of(source, ((item, reading),), accepted_at)[0]


def rows_of(source: Source, readings: Iterable[tuple[Item, Reading]], accepted_at: datetime) -> list[Row]:
    """The rows of a delivery's events, in the order of `store.intake.COLUMNS`.

    Every event passes here: what is the same for all is looked up once, and what most do not have is asked for first.
    """
    name, provider, settings = source.name, source.provider.name, source.settings
    stream, brand, default_topic = settings.stream, settings.brand, settings.default_topic
    latest = accepted_at + AHEAD
    if settings.types:
        readings = _mapped(readings, settings.types)
    if settings.lists:
        readings = _on_our_topics(readings, settings.lists)
    rows = []
    for item, reading in readings:
        type_ = reading.type
        identity = reading.identity
        if identity is None:
            identity = "raw", reading.word, reading.recipient, item.text
        occurred_at, provider_time, time_note = reading.occurred_at, None, None
        id_ = event_id(name, identity, reading.identity_time or occurred_at)
        recipient, domain, mailbox = _recipient(reading.recipient) if reading.recipient else _NOBODY
        sender, sender_domain = _sender(reading.sender) if reading.sender else _NO_SENDER
        message_id = reading.message_id
        if message_id is not None and len(message_id) > INDEXED:
            message_id = message_id[:INDEXED]
        if occurred_at is None or not _EARLIEST <= occurred_at <= latest:
            occurred_at, provider_time, time_note = _time(occurred_at, accepted_at)
        category, bounce_class, smtp_code, enhanced_code = (
            _bounce(reading) if type_ in _FAILURES else (None, None, reading.smtp_code, reading.enhanced_code)
        )
        actor, reasons, detector = None, None, None
        if type_ in _OPENS_AND_CLICKS:
            actor, reasons = judge(type_, provider_flag=reading.actor, user_agent=reading.user_agent)
            detector = DETECTOR_VERSION
        rows.append(
            (
                id_,
                occurred_at,
                type_,
                name,
                provider,
                reading.word,
                recipient,
                domain,
                mailbox,
                message_id,
                reading.internet_message_id,
                reading.provider_event_id,
                sender,
                sender_domain,
                category,
                bounce_class,
                reading.verdict,
                smtp_code if smtp_code is None else _smtp_code(smtp_code),
                enhanced_code,
                reading.diagnostic,
                None if bounce_class is None else CLASSIFIER_VERSION,
                reading.reject_reason,
                actor,
                reasons,
                detector,
                inet(reading.sending_ip) if reading.sending_ip else None,
                reading.ip_pool,
                reading.remote_mta,
                stream or reading.stream,
                brand,
                reading.topic or default_topic,
                reading.campaign,
                reading.template_id,
                reading.attempt,
                reading.tags,
                _metadata(reading.metadata) if reading.metadata else "{}",
                reading.subject,
                reading.url,
                reading.user_agent,
                inet(reading.client_ip) if reading.client_ip else None,
                reading.country,
                reading.attribution,
                reading.echo,
                reading.is_test,
                None,
                provider_time,
                time_note,
                item.text,
                item.altered,
                shard_of(recipient, message_id, id_),
            )
        )
    return rows


def _mapped(readings: Iterable[tuple[Item, Reading]], types: Mapping[str, EventType]) -> Iterator[tuple[Item, Reading]]:
    """The readings with the operator's own meaning of some words (`[sources.<name>.types]`)."""
    for item, reading in readings:
        type_ = types.get(reading.word, reading.type)
        if type_ is not reading.type:
            reason = reading.reject_reason if type_ in _HELD_BACK else None
            yield item, msgspec.structs.replace(reading, type=type_, reject_reason=reason)
        else:
            yield item, reading


def _on_our_topics(
    readings: Iterable[tuple[Item, Reading]], lists: Mapping[str, str]
) -> Iterator[tuple[Item, Reading]]:
    """The readings with our names of the provider's lists and groups (`[sources.<name>.lists]`)."""
    for item, reading in readings:
        topic = lists.get(reading.topic) if reading.topic else None
        yield item, reading if topic is None else msgspec.structs.replace(reading, topic=topic)


def _recipient(text: str) -> tuple[str | None, str | None, str | None]:
    """(address, domain, mailbox provider)."""
    address = normalize_address(text)
    if address is None:
        return _NOBODY
    domain = address.rpartition("@")[2]
    return address, domain, _mailbox(domain)


@lru_cache(maxsize=4096)  # a team writes from few addresses
def _sender(text: str) -> tuple[str | None, str | None]:
    """(address, domain)."""
    address = normalize_address(text)
    return address, address.rpartition("@")[2] if address else None


def _time(occurred_at: datetime | None, accepted_at: datetime) -> tuple[datetime, str | None, str]:
    """(occurred_at, provider_time, time_note) where the provider has no time, or one that cannot be."""
    if occurred_at is None:
        return accepted_at, None, "missing"
    if occurred_at < _EARLIEST:
        return accepted_at, occurred_at.isoformat(), "missing"
    return accepted_at + AHEAD, occurred_at.isoformat(), "future"


def _bounce(reading: Reading) -> tuple[str | None, str | None, int | None, str | None]:
    """(bounce_category, bounce_class, smtp_code, enhanced_code); the first only where the provider has given up."""
    found = classify(
        diagnostic=reading.diagnostic,
        enhanced_code=reading.enhanced_code,
        smtp_code=None if reading.smtp_code is None else _smtp_code(reading.smtp_code),
        verdict=reading.verdict,
    )
    category = found.category if reading.type is EventType.BOUNCED else None
    return category, found.bounce_class, found.smtp_code, found.enhanced_code


def _smtp_code(code: int) -> int | None:
    return code if 100 <= code <= 999 else None


def _metadata(metadata: Mapping[str, Any]) -> str:
    try:
        return _encode(metadata).decode()
    except (msgspec.MsgspecError, OverflowError, TypeError):  # such as an integer of more than 64 bits
        return json.dumps(metadata, default=str)


@lru_cache(maxsize=4096)  # mail is sent from few addresses, and proxies open it from few
def inet(address: str) -> bytes | None:
    """Postgres's wire form of an address without a mask; None for what is no address."""
    try:
        if ":" in address:
            return b"\x03\x80\x00\x10" + inet_pton(AF_INET6, address)
        return b"\x02\x20\x00\x04" + inet_pton(AF_INET, address)
    except (OSError, ValueError):  # ValueError: a NUL character inside
        return None
