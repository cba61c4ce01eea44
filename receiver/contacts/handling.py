"""Contacts as handlers see them: `ctx.contacts`.

Whether an address may be mailed is never one status: it follows from what the person has said about each topic, and
from what stands against the address. `sendable` tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Literal, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from receiver.classify.addresses import normalize_address
from receiver.contacts import moving, recording
from receiver.contacts.origin import Origin
from receiver.contacts.rules import Rules
from receiver.contacts.suppressing import Scope, Suppression, Why, rows_of, verdict
from receiver.event import Event, EventType
from receiver.store import choices, consent, moves, suppressions
from receiver.store import contacts as store
from receiver.store.consent import SAID, Action, Statement
from receiver.store.sql import Sql
from receiver.vault import Vault

Stream: TypeAlias = Literal["marketing", "transactional"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A row of `contacts`. Times are aware and UTC; None: never."""

    id: int
    address: str
    external_id: str | None
    display_address: str | None
    name: str | None
    locale: str | None
    time_zone: str | None
    attributes: dict[str, Any]
    tags: list[str]
    created_at: datetime
    updated_at: datetime | None
    soft_streak: int
    last_event_at: datetime | None
    last_sent_at: datetime | None
    last_delivered_at: datetime | None
    last_opened_at: datetime | None
    last_clicked_at: datetime | None
    last_bounced_at: datetime | None
    complained_at: datetime | None
    unsubscribed_at: datetime | None
    prefetched_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sendable:
    """Whether mail may go to an address; as a truth value: whether it may.

    `reason`: why not. `since`: from when on. `until`: to when; None: for good. `event_id`: the event that says so.
    """

    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    event_id: UUID | None = None

    def __bool__(self) -> bool:
        return self.reason is None


class Contacts:
    """Reads and changes contacts, subscriptions and suppressions within the handler's transaction.

    Addresses are normalized; a text that is none raises ValueError.
    """

    __slots__ = ("_origin", "_rules", "_sql", "_vault")

    def __init__(self, sql: Sql, vault: Vault, rules: Rules | None = None, origin: Origin | None = None) -> None:
        self._sql = sql
        self._vault = vault
        self._rules = rules or Rules()
        self._origin = origin or Origin()

    # The person --------------------------------------------------------------------------------------------------

    async def get(self, address: str) -> Contact | None:
        """The contact, or None."""
        row = await store.get(self._sql, normalized(address))
        return None if row is None else _contact(row)

    async def update(
        self,
        address: str,
        /,
        *,
        name: str | None = None,
        locale: str | None = None,
        time_zone: str | None = None,
        external_id: str | None = None,
        display_address: str | None = None,
        **attributes: Any,
    ) -> Contact:
        """Set what is given, attributes among it (others stay), making the contact if need be; an empty text removes.

        Raises ValueError for a time zone that is none.
        """
        if time_zone:
            _check_time_zone(time_zone)
        details = {
            "name": name,
            "locale": locale,
            "time_zone": time_zone,
            "external_id": external_id,
            "display_address": display_address,
        }
        address, hashed = self._key(address)
        text = msgspec.json.encode(attributes).decode()
        return _contact(await store.update(self._sql, address, hashed, text, details))

    async def tag(self, address: str, *tags: str) -> None:
        """Give the contact tags, making it if need be."""
        await store.tag(self._sql, *self._key(address), tags)

    async def untag(self, address: str, *tags: str) -> None:
        """Take tags from the contact."""
        await store.untag(self._sql, normalized(address), tags)

    async def change_address(self, old: str, new: str, *, at: datetime, why: str = "") -> Contact:
        """Give a contact another address, and note the old one.

        What the person has said goes along: subscriptions, unsubscribes, complaints, and what somebody or a list of
        another provider has said for them. What was wrong with the old address does not: bounces. A contact that has
        the new address already becomes one with this. The old address stays unsubscribed from what it was, and is
        subscribed to nothing. Raises LookupError without such a contact.
        """
        before, after = self._key(old), self._key(new)
        await moving.move(self._sql, self._rules.policy, before, after, at=at, why=why, origin=self._origin)
        row = await store.get(self._sql, after[0])
        assert row is not None
        return _contact(row)

    # What events say ---------------------------------------------------------------------------------------------

    async def record(self, events: Sequence[Event]) -> None:
        """Note when things happened to the events' recipients, and what their repeated bounces mean.

        A few statements, however many events; order, duplicates and batches make no difference. What may concern
        somebody else and what is unverified does not count, nor do incoming mail and clicks of machines; an echo counts
        only as last event.
        """
        await recording.record(self._sql, self._vault, self._rules.policy, events)

    async def heed(self, events: Sequence[Event]) -> None:
        """Do what bounces, complaints, unsubscribes and refusals ask for, by the bounce policy and the sources' rules.

        A few statements, however many events; order, duplicates and batches make no difference.
        """
        await self.suppress_many(verdict(event, self._rules) for event in events)
        await consent.record(self._sql, [self._subscribed(event) for event in events if self._is_trusted(event)])

    def _is_trusted(self, event: Event) -> bool:
        """Whether the event subscribes its recipient: its source is believed, and says to what."""
        return (
            event.type is EventType.SUBSCRIBED
            and event.source in self._rules.trusted
            and bool(event.recipient and event.topic)
            and event.attribution is None
        )

    def _subscribed(self, event: Event) -> Statement:
        assert event.recipient is not None
        return Statement(
            address_hash=self._vault.address_hash(event.recipient),
            address=event.recipient,
            action="subscribed",
            at=event.occurred_at,
            topic=event.topic or "",
            brand=event.brand or "",
            source=event.source,
            method="event",
            event_id=event.id,
            client_ip=None if event.client_ip is None else ip_address(event.client_ip),
            user_agent=event.user_agent,
        )

    async def verified(self, event: Event) -> Event | None:
        """The event as one to go by; None where it is ambiguous, or unverified and no send of ours stands behind it.

        That is a bounce message or feedback report, which anybody can write. A send is known if an event that came
        another way has the same recipient, and the message id that the report names.
        """
        if event.attribution == "unverified" and event.recipient is not None:
            ids = [one for one in (event.message_id, event.internet_message_id) if one]
            if await store.is_known_send(self._sql, event.recipient, ids):
                return msgspec.structs.replace(event, attribution=None)
        return event if event.attribution is None else None

    # Who may be mailed -------------------------------------------------------------------------------------------

    async def sendable(self, address: str, topic: str | None = None, stream: Stream = "marketing") -> Sendable:
        """Whether mail about the topic may go to the address, and why not; without a topic only suppressions count."""
        (row,) = await consent.sendable(self._sql, [self._key(address)[1]], topic, stream)
        return Sendable(reason=row["reason"], since=row["since"], until=row["until"], event_id=row["event_id"])

    async def subscribe(self, address: str, topic: str, *, at: datetime, wording: str | None = None) -> None:
        """The person has subscribed, which counts at once, also where the topic has double opt-in: see `request`.

        Lifts no suppression. Who was erased before `at` is a contact again; of who was erased since, nothing is kept.
        """
        await self._come(address, topic, "subscribed", at, wording)

    async def request(self, address: str, topic: str, *, at: datetime, wording: str | None = None) -> None:
        """The person has asked for a subscription which does not count before they confirm it. Mails no link."""
        await self._come(address, topic, "requested", at, wording)

    async def _come(self, address: str, topic: str, action: Action, at: datetime, wording: str | None) -> None:
        address, hashed = self._key(address)
        await choices.sign_up_again(self._sql, hashed, at)
        if await choices.erased(self._sql, hashed):
            return
        await store.tag(self._sql, address, hashed, [])
        await consent.record(self._sql, [self._statement(address, action, at, topic=topic, wording=wording)])

    async def unsubscribe(
        self, address: str, topic: str | None = None, *, at: datetime, brand: str = "", wording: str | None = None
    ) -> None:
        """The person has unsubscribed: from the topic, or without one from all marketing mail of the brand."""
        scope: Scope = "topic" if topic else "marketing"
        note = wording or ""
        await self.suppress(
            address, at=at, reason="unsubscribe", scope=scope, brand=brand, topic=topic or "", note=note
        )

    async def suppress(  # noqa: PLR0913 - keywords with defaults are the interface
        self,
        address: str,
        *,
        at: datetime,
        reason: Why = "manual",
        scope: Scope = "all",
        brand: str = "",
        topic: str = "",
        source: str = "manual",
        until: datetime | None = None,
        note: str = "",
    ) -> None:
        """Suppress one address; `at` is when the cause happened, such as `event.occurred_at` or `ctx.now`."""
        one = Suppression(
            address=address,
            reason=reason,
            scope=scope,
            at=at,
            source=source,
            brand=brand,
            topic=topic,
            until=until,
            note=note,
        )
        await self.suppress_many([one])

    async def suppress_many(self, suppressions_: Iterable[Suppression | None]) -> None:
        """Suppress addresses in a few statements; Nones are left out. Order, duplicates and batches do not matter."""
        found = [(*self._key(one.address), one) for one in suppressions_ if one is not None]
        found += await self._of_moved(found)
        await suppressions.suppress(
            self._sql, rows_of((hashed, one) for _, hashed, one in found if not one.is_subscription)
        )
        statements = [self._said(address, hashed, one) for address, hashed, one in found if _is_said(one)]
        await consent.record(self._sql, statements)

    async def _of_moved(self, found: Sequence[tuple[str, bytes, Suppression]]) -> list[tuple[str, bytes, Suppression]]:
        """What people say by a mail to an earlier address of theirs holds for the present one too."""
        said = {hashed for _, hashed, one in found if one.reason in SAID}
        now = await moves.moved(self._sql, list(said)) if said else {}
        return [
            (*now[hashed], replace(one, address=now[hashed][0]))
            for _, hashed, one in found
            if one.reason in SAID and hashed in now
        ]

    def _said(self, address: str, hashed: bytes, one: Suppression) -> Statement:
        by_event = one.event_id is not None
        return Statement(
            address_hash=hashed,
            address=address,
            action=SAID.get(one.reason, "suppressed"),
            at=one.at,
            topic=one.topic,
            brand=one.brand,
            source=one.source if by_event or one.source != "manual" else self._origin.source,
            method="event" if by_event else self._origin.method,
            wording=one.note or None,
            client_ip=None if one.client_ip is None else ip_address(one.client_ip),
            user_agent=one.user_agent,
            event_id=one.event_id,
        )

    async def lift(self, address: str, *, reason: Why, why: str, who: str | None = None) -> int:
        """Lift the address's suppressions for one reason; returns how many. Older events do not bring them back.

        `why`, and who did it (by default this handler), are kept.
        """
        address, hashed = self._key(address)
        await store.lock(self._sql, hashed)
        rows = await suppressions.lift(self._sql, [hashed], reason, who or self._origin.source, why)
        lifted = {(row["topic"], row["brand"]): row for row in rows}
        await consent.record(
            self._sql,
            [
                self._statement(
                    address,
                    "lifted",
                    row["lifted_at"],
                    topic=topic,
                    brand=brand,
                    wording=why,
                    source=who,
                    detail={"reason": reason, "since": row["since"], "last_at": row["last_at"]},
                )
                for (topic, brand), row in lifted.items()
            ],
        )
        if reason == "soft_bounce" and rows:
            await recording.settle(self._sql, self._rules.policy, [hashed])
        return len(rows)

    def _statement(self, address: str, action: Action, at: datetime, **more: Any) -> Statement:
        source = more.pop("source", None) or self._origin.source
        return Statement(
            address_hash=self._vault.address_hash(address),
            address=address,
            action=action,
            at=at,
            source=source,
            method=self._origin.method,
            **more,
        )

    def _key(self, address: str) -> tuple[str, bytes]:
        """The address as it is looked up, and its hash."""
        address = normalized(address)
        return address, self._vault.address_hash(address)


def normalized(address: str) -> str:
    """The address as it is looked up. Raises ValueError (which does not quote it) where the text is no address."""
    found = normalize_address(address)
    if found is None:
        raise ValueError("not an e-mail address")
    return found


def _is_said(one: Suppression) -> bool:
    """Whether a person (or somebody for them) said so, rather than a server."""
    return not one.echo and one.reason not in ("hard_bounce", "soft_bounce")


def _check_time_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: the name of a directory of zones
        raise ValueError(f"no time zone of the IANA database: {name!r}") from error


def _contact(row: Any) -> Contact:
    values = dict(row)
    return Contact(**values | {"attributes": msgspec.json.decode(values["attributes"])})
