"""Keeps each contact's times (last sent, delivered, opened, clicked, ...), and counts bounces in a row."""

from collections.abc import Sequence

from receiver import Context, Event, handler


@handler(batch=True, machines=True)
async def engagement(events: Sequence[Event], ctx: Context) -> None:
    """Note on each contact when things last happened; suppress where bounces repeat."""
    await ctx.contacts.record(events)
