"""Suppressions as handlers see them, what events mean for them, and how several causes of one become one row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal, TypeAlias
from uuid import UUID

from receiver.classify.addresses import domain_of
from receiver.classify.mailboxes import mailbox_provider
from receiver.contacts.policy import AT_ONCE
from receiver.contacts.rules import Rules
from receiver.event import Event, EventType, RejectReason
from receiver.store.suppressions import SuppressionRow

Why: TypeAlias = Literal["hard_bounce", "soft_bounce", "complaint", "unsubscribe", "manual", "imported"]
Scope: TypeAlias = Literal["all", "marketing", "topic"]

# Providers that hold mail back say why: all but `invalid` repeat an outcome that they learned earlier.
_REPEATS: Final = frozenset({RejectReason.BOUNCED, RejectReason.COMPLAINED, RejectReason.UNSUBSCRIBED})
_NO_EVENT: Final = UUID(int=0)

mailbox_of: Final = lru_cache(maxsize=4096)(mailbox_provider)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """Why and from what an address must not be mailed. `at`: when it happened; empty brand: every brand.

    `echo`: known only from a provider that held mail back; it never outweighs or repeats the outcome itself.
    `until`: it counts until then; None: for good. `note`: why, in somebody's words.
    An unsubscribe from a topic that is no echo is kept as the topic's subscription. Raises ValueError for what could
    not hold: `soft_bounce`, which follows from bounces alone, and a scope that is not that of the topic or brand.
    """

    address: str
    reason: Why
    scope: Scope
    at: datetime
    source: str
    brand: str = ""
    topic: str = ""
    event_id: UUID | None = None
    echo: bool = False
    until: datetime | None = None
    note: str = ""
    client_ip: str | None = None
    user_agent: str | None = None

    def __post_init__(self) -> None:
        if self.reason == "soft_bounce":
            raise ValueError("soft_bounce follows from bounces by the bounce policy alone: give another reason")
        if self.scope == "topic" and not self.topic:
            raise ValueError("scope='topic' does not say which topic: give it")
        if self.scope != "topic" and self.topic:
            raise ValueError("a topic's mail alone is scope='topic'")
        if self.scope == "all" and self.brand:
            raise ValueError("a brand's mail alone is scope='marketing': all mail is that of every brand")

    @classmethod
    def of(cls, event: Event, reason: Why, scope: Scope, *, topic: str = "") -> Suppression | None:
        """What the event means for its recipient, within its brand unless the scope is `all`.

        None where it is not certain whom the event concerns, or that it is true (see `Contacts.verified`).
        """
        if event.recipient is None or event.attribution is not None:
            return None
        return cls(
            address=event.recipient,
            reason=reason,
            scope=scope,
            at=event.occurred_at,
            source=event.source,
            brand="" if scope == "all" else event.brand or "",
            topic=topic,
            event_id=event.id,
            echo=event.echo or event.reject_reason in _REPEATS,
            client_ip=event.client_ip,
            user_agent=event.user_agent,
        )

    @property
    def is_subscription(self) -> bool:
        """Whether it is kept as what the person has said about the topic, and not as a suppression."""
        return self.reason == "unsubscribe" and self.scope == "topic" and not self.echo


def verdict(event: Event, rules: Rules) -> Suppression | None:
    """What one event suppresses, by itself and at once; None: nothing."""
    match event.type, event.reject_reason:
        case EventType.BOUNCED, _ if _at_once(event, rules):
            return Suppression.of(event, "hard_bounce", "all")
        case EventType.REJECTED, RejectReason.BOUNCED | RejectReason.INVALID:
            return Suppression.of(event, "hard_bounce", "all")
        case (EventType.COMPLAINED, _) | (EventType.REJECTED, RejectReason.COMPLAINED):
            return Suppression.of(event, "complaint", "all" if event.source in rules.total_complaints else "marketing")
        case (EventType.UNSUBSCRIBED, _) | (EventType.REJECTED, RejectReason.UNSUBSCRIBED):
            scope: Scope = "topic" if event.topic else "marketing"
            return Suppression.of(event, "unsubscribe", scope, topic=event.topic or "")
    return None


def _at_once(event: Event, rules: Rules) -> bool:
    action = rules.policy.action(
        event.bounce_class, event.bounce_category, verdict=event.provider_verdict, stream=event.stream
    )
    return action == AT_ONCE


def rows_of(suppressions: Iterable[tuple[bytes, Suppression]]) -> list[SuppressionRow]:
    """Each suppression once, from all its causes with the hash of their address."""
    merged: dict[tuple[bytes, str, str, str, str], list[Suppression]] = {}
    for hashed, one in suppressions:
        merged.setdefault((hashed, one.reason, one.scope, one.brand, one.topic), []).append(one)
    return [_merged(key, ones) for key, ones in merged.items()]


def _merged(key: tuple[bytes, str, str, str, str], ones: Sequence[Suppression]) -> SuppressionRow:
    """Several causes as one, by the rule of the statement that merges it with the stored one."""
    firm = [one for one in ones if not one.echo] or ones
    first = min(firm, key=lambda one: (one.at, one.event_id or _NO_EVENT))
    last = max(firm, key=lambda one: one.at)
    domain = domain_of(first.address)
    return SuppressionRow(
        *key,
        since=first.at,
        last_at=last.at,
        source=first.source,
        event_id=first.event_id,
        echo=first.echo,
        expires_at=_latest([one.until for one in firm]),
        note=last.note,
        recipient_domain=domain,
        mailbox_provider=mailbox_of(domain),
    )


def _latest(ends: Sequence[datetime | None]) -> datetime | None:
    """None: it never ends."""
    known = [end for end in ends if end is not None]
    return max(known) if len(known) == len(ends) else None
