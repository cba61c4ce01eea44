"""Keeps up what must not be mailed to whom, and why: by the bounce policy, and by what people have said."""

from collections.abc import Sequence
from datetime import timedelta

from receiver import Context, Event, EventType, Outcome, RetryAfter, Skip, handler

SEND_COMES_WITHIN = timedelta(days=1)  # of a report about it: the other source may be late


SAYING = [EventType.BOUNCED, EventType.COMPLAINED, EventType.UNSUBSCRIBED, EventType.SUBSCRIBED, EventType.REJECTED]


@handler(types=SAYING, batch=True)
async def suppression(events: Sequence[Event], ctx: Context) -> None:
    """Suppress addresses after hard bounces, complaints and unsubscribes."""
    await ctx.contacts.heed(events)


@handler(types=[EventType.BOUNCED, EventType.COMPLAINED], provider="arf_dsn")
async def reports(event: Event, ctx: Context) -> Outcome | None:
    """Suppress by bounce messages and feedback reports, which anybody can forge, once the send is known."""
    known = await ctx.contacts.verified(event)
    if known is not None:
        await ctx.contacts.record([known])
        await ctx.contacts.heed([known])
        return None
    age = ctx.now - event.received_at
    if event.attribution == "unverified" and event.recipient and age < SEND_COMES_WITHIN:
        return RetryAfter(max(age, timedelta(minutes=1)), "no send is known yet")
    return Skip("no send of this message to this recipient is known")
