"""Keeps a list of addresses that must not be mailed, and why."""

from collections.abc import Sequence
from datetime import timedelta

from receiver import (
    BounceCategory,
    Context,
    Event,
    EventType,
    Outcome,
    RejectReason,
    RetryAfter,
    Skip,
    Suppression,
    handler,
)

SEND_COMES_WITHIN = timedelta(days=1)  # of a report about it: the other source may be late


@handler(
    types=[EventType.BOUNCED, EventType.COMPLAINED, EventType.UNSUBSCRIBED, EventType.REJECTED],
    batch=True,
)
async def suppression(events: Sequence[Event], ctx: Context) -> None:
    """Suppress addresses after hard bounces, complaints and unsubscribes."""
    await ctx.contacts.suppress_many(verdict(event) for event in events)


@handler(types=[EventType.BOUNCED, EventType.COMPLAINED], provider="arf_dsn")
async def reports(event: Event, ctx: Context) -> Outcome | None:
    """Suppress by bounce messages and feedback reports, which anybody can forge, once the send is known."""
    known = await ctx.contacts.verified(event)
    if known is not None:
        await ctx.contacts.record([known])
        await ctx.contacts.suppress_many([verdict(known)])
        return None
    age = ctx.now - event.received_at
    if event.attribution == "unverified" and event.recipient and age < SEND_COMES_WITHIN:
        return RetryAfter(max(age, timedelta(minutes=1)), "no send is known yet")
    return Skip("no send of this message to this recipient is known")


def verdict(event: Event) -> Suppression | None:
    """What the event means for its recipient; None: nothing."""
    match event.type, event.reject_reason:
        case EventType.BOUNCED, _ if event.bounce_category is BounceCategory.HARD:
            return Suppression.of(event, "hard_bounce", "all")
        case EventType.REJECTED, RejectReason.BOUNCED | RejectReason.INVALID:
            return Suppression.of(event, "hard_bounce", "all")
        case (EventType.COMPLAINED, _) | (_, RejectReason.COMPLAINED):
            return Suppression.of(event, "complaint", "marketing")
        case (EventType.UNSUBSCRIBED, _) if event.topic:
            return Suppression.of(event, "unsubscribe", "topic", topic=event.topic)
        case (EventType.UNSUBSCRIBED, _) | (_, RejectReason.UNSUBSCRIBED):
            return Suppression.of(event, "unsubscribe", "marketing")
    return None
