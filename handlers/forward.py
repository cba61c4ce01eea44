"""Posts events to a URL of your own, for programs that are not in Python. `[handlers.forward]` says where to."""

from collections.abc import Sequence
from uuid import UUID

from receiver import BounceCategory, Context, Endpoint, Event, EventType, GiveUp, Outcome, RetryAfter, Skip, handler

NEVER = {400, 413, 415, 422}  # the events themselves are refused: trying again would not help


class Forward(Endpoint):
    """Where to (`url`, `secret`, `private`, `raw`: see Endpoint), and which events; what is empty leaves none out."""

    types: frozenset[EventType] = frozenset()
    streams: frozenset[str] = frozenset()
    bounce_categories: frozenset[BounceCategory] = frozenset()
    machines: bool = False
    tests: bool = False

    def wants(self, event: Event, stream: str | None) -> bool:
        """Whether the event, of mail of this kind, is to be forwarded."""
        return (
            (not self.types or event.type in self.types)
            and (not self.streams or stream in self.streams)
            and (not self.bounce_categories or event.bounce_category in {None, *self.bounce_categories})
            and (self.machines or event.actor != "machine")
            and (self.tests or not event.is_test)
        )


@handler(batch=True, batch_size=100, settings=Forward, opt_in=True, machines=True, tests=True)
async def forward(events: Sequence[Event], ctx: Context[Forward]) -> Outcome | None:
    """Post events to a URL of your own, signed, in batches; for as long as it asks for a pause they wait in the log."""
    if ctx.replaying:
        return Skip("replayed without side effects")
    ours = await _streams(events, ctx) if ctx.settings.streams else {}
    wanted = [event for event in events if ctx.settings.wants(event, ours.get(_send_id(event), event.stream))]
    if not wanted:
        return Skip("none that is forwarded")
    if ctx.settings.rest:
        return RetryAfter(ctx.settings.rest, "the URL has asked for a pause")
    answer = await ctx.settings.post(wanted)
    if 200 <= answer.status < 300:
        return None
    why = f"the URL answered {answer.status}: {answer.body[:200].decode(errors='replace')}"
    if answer.status in NEVER:
        return GiveUp(why)
    if ctx.settings.rest:
        return RetryAfter(ctx.settings.rest, why)
    raise RuntimeError(why)  # it may be set right, so it is tried again


async def _streams(events: Sequence[Event], ctx: Context[Forward]) -> dict[UUID | None, str]:
    """By their ids, of messages that the outbox has sent: it knows their kind, where the provider does not say it."""
    ids = {id_ for event in events if (id_ := _send_id(event)) is not None}
    rows = await ctx.sql.fetch("SELECT id, stream FROM sends WHERE id = ANY ($1)", list(ids)) if ids else []
    return {row["id"]: row["stream"] for row in rows}


def _send_id(event: Event) -> UUID | None:
    try:
        return UUID(str(event.metadata.get("send_id")))
    except ValueError:
        return None
