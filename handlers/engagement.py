"""Keeps each contact's times: when mail was last sent, delivered, opened, clicked, and so on."""

from collections.abc import Sequence

from receiver import Context, Event, handler


@handler(batch=True)
async def engagement(events: Sequence[Event], ctx: Context) -> None:
    """Note on each contact when things last happened."""
    await ctx.contacts.record(events)
