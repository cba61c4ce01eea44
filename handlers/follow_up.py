"""An example: whoever clicks in a message tagged "trial" gets some tips two days later, once."""

from datetime import timedelta

from receiver import Context, Event, EventType, Outcome, Skip, handler


@handler(types=[EventType.CLICKED], tag="trial")
async def follow_up(event: Event, ctx: Context) -> Outcome | None:
    """Queue tips for those who clicked in a trial message."""
    if event.recipient is None:
        return Skip("the provider does not say who clicked")
    unsettled = await ctx.unsettled(event)  # scanners click too
    if unsettled is not None:
        return unsettled
    await ctx.send(
        template="trial-tips",
        topic="tips",
        to=event.recipient,
        key=f"trial-tips:{event.recipient}",
        delay=timedelta(days=2),
        data={"link": event.url},
        cancel_on=[EventType.UNSUBSCRIBED, EventType.COMPLAINED],
    )
    return None
