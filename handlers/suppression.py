"""Keeps a list of addresses that must not be mailed, and why."""

from collections.abc import Sequence

from receiver import BounceCategory, Context, Event, EventType, RejectReason, Suppression, handler


@handler(
    types=[EventType.BOUNCED, EventType.COMPLAINED, EventType.UNSUBSCRIBED, EventType.REJECTED],
    batch=True,
)
async def suppression(events: Sequence[Event], ctx: Context) -> None:
    """Suppress addresses after hard bounces, complaints and unsubscribes."""
    await ctx.contacts.suppress_many(verdict(event) for event in events)


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
