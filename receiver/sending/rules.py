"""Rules as handlers: each has its own place in the log, so that it can be paused, fail and be watched like any other.

A click counts only once it has settled and was not part of a scanner's burst. Mail that a rule sent does not set off
that rule again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from pydantic import ValidationError

from receiver.classify.bursts import SETTLE
from receiver.errors import Problem
from receiver.event import Event, EventType
from receiver.faults import problems_of
from receiver.plugins.context import Context
from receiver.plugins.filters import Filter
from receiver.plugins.handlers import Handler
from receiver.plugins.outcomes import Outcome, Skip
from receiver.rule_settings import NOT_OPENED, SILENT, RuleSettings, rule_name_fits
from receiver.sending.proving import send_id_of
from receiver.sending.templates import Meta, Templates, Unfit
from receiver.settings import Settings
from receiver.store import sends
from receiver.store.sql import Sql

log = structlog.get_logger("rules")

PREFIX: Final = "rule."
MOST_SILENT: Final = 500  # contacts in one transaction
_NOT_SEEN: Final = ("opened", "clicked", "prefetched")  # what makes a message for those who have not opened pointless

_CAUSE: Final = "SELECT rule, depth, stream FROM sends WHERE id = $1"

# Whose mail client loads pictures by itself may have read everything: nobody knows, so they are left out.
_SILENT: Final = """
SELECT c.id, c.address, coalesce(greatest(c.last_opened_at, c.last_clicked_at), c.created_at) AS since
FROM contacts c JOIN subscriptions s ON s.address_hash = c.address_hash AND s.topic = $1 AND s.state = 'subscribed'
WHERE c.id > $3 AND c.last_delivered_at > coalesce(greatest(c.last_opened_at, c.last_clicked_at), c.created_at)
  AND coalesce(greatest(c.last_opened_at, c.last_clicked_at), c.created_at) < now() - $2::interval
  AND (c.prefetched_at IS NULL OR c.prefetched_at < now() - $2::interval)
ORDER BY c.id LIMIT $4
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, and what its template says of the message."""

    name: str
    settings: RuleSettings
    meta: Meta

    @property
    def stream(self) -> str:
        return self.settings.stream or self.meta.stream

    @property
    def topic(self) -> str | None:
        return self.settings.topic or self.meta.topic


def find_rules(settings: Settings) -> tuple[list[Rule], list[Problem]]:
    """The rules that can be used, and what is wrong with the others."""
    templates = Templates(settings.sending.templates_dir)
    rules, problems = list[Rule](), list[Problem]()
    for name, table in settings.rules.items():
        found = _bind(name, table, templates, settings)
        if isinstance(found, Rule):
            rules.append(found)
        else:
            problems += found
    return rules, problems


def _bind(name: str, table: Mapping[str, Any], templates: Templates, settings: Settings) -> Rule | list[Problem]:
    key = f"rules.{name}"
    if not rule_name_fits(name):
        return [Problem(key, "is not a name", "Use letters, digits, - and _, at most 58 characters")]
    try:
        bound = RuleSettings.model_validate(table)
        meta = templates.meta(bound.send)
    except ValidationError as error:
        return [problem for _, problem in problems_of(error, RuleSettings, f"{key}.", settings.origins)]
    except Unfit as error:
        return [Problem(f"{key}.send", error.detail, "Name a template in templates_dir")]
    rule = Rule(name, bound, meta)
    if rule.stream == "marketing" and rule.topic is None:
        right = "Say `topic` here or in the template's meta.toml: people subscribe to topics"
        return [Problem(f"{key}.topic", "is missing: marketing mail needs the consent of its recipients", right)]
    return rule


def handlers_of(rules: list[Rule]) -> list[Handler]:
    """A handler for each rule that follows events; `silent` ones follow the clock (see `ask_the_silent`)."""
    return [handler_of(rule) for rule in rules if rule.settings.when != SILENT]


def handler_of(rule: Rule, *, settle: timedelta = SETTLE) -> Handler:
    """The rule as a handler called `rule.<name>`. `settle`: how long after a click it is judged."""
    wanted = rule.settings
    type_ = EventType.DELIVERED if wanted.when == NOT_OPENED else EventType(wanted.when)

    async def run(event: Event, ctx: Context) -> Outcome | None:
        return await _follow(rule, event, ctx, settle)

    run.__doc__ = f"Send {wanted.send} {_words(wanted)}."
    return Handler(
        name=f"{PREFIX}{rule.name}",
        function=run,
        filter=Filter(
            types=frozenset([type_]),
            source=frozenset([wanted.source] if wanted.source else []),
            tag=frozenset([wanted.tag] if wanted.tag else []),
        ),
        origin="receiver.toml",
    )


def _words(wanted: RuleSettings) -> str:
    tag = f" with the tag {wanted.tag}" if wanted.tag else ""
    return f"{'some time ' if wanted.after else ''}after {wanted.when}{tag}"


async def _follow(rule: Rule, event: Event, ctx: Context, settle: timedelta) -> Outcome | None:
    wanted = rule.settings
    if event.recipient is None or event.attribution is not None:
        return Skip("nobody is certain whom it concerns")
    cause = await _cause(ctx.sql, event)
    if not _fits(wanted, event, event.stream if cause is None else cause["stream"]):
        return Skip("it is not what the rule is about")
    unsettled = await ctx.unsettled(event, after=settle)
    if unsettled is not None:
        return unsettled
    if cause is not None and cause["rule"] == rule.name:
        return Skip("the rule's own message")
    if not ctx.replaying:
        await _queue(rule, event, ctx.sql, depth=cause["depth"] + 1 if cause is not None else 0)
    return None


def _fits(wanted: RuleSettings, event: Event, stream: str | None) -> bool:
    return (
        wanted.event_stream in (None, stream)
        and wanted.event_topic in (None, event.topic)
        and wanted.campaign in (None, event.campaign)
        and wanted.bounce_category in (None, event.bounce_category)
        and (wanted.url is None or wanted.url in (event.url or ""))
    )


async def _cause(sql: Sql, event: Event) -> Any:
    """The row in the outbox that the event is about, where it is one."""
    id_ = send_id_of(event)
    return None if id_ is None else await sql.fetchrow(_CAUSE, id_)


async def _queue(rule: Rule, event: Event, sql: Sql, *, depth: int) -> None:
    wanted = rule.settings
    assert event.recipient is not None
    trigger = "contact" if wanted.once_per == "contact" else event.message_id or str(event.id)
    await sends.queue(
        sql,
        key=f"{rule.name}:1:{event.recipient}:{trigger}",
        recipient=event.recipient,
        template=wanted.send,
        stream=rule.stream,
        topic=rule.topic,
        data={"event": {"type": event.type, "url": event.url, "subject": event.subject, "campaign": event.campaign}},
        delay=wanted.after or timedelta(0),
        cancel_on=[*wanted.unless, *(_NOT_SEEN if wanted.when == NOT_OPENED else ())],
        handler=f"{PREFIX}{rule.name}",
        event_id=event.id,
        brand=event.brand or "",
        rule=rule.name,
        depth=depth,
    )


async def ask_the_silent(sql: Sql, rule: Rule, after_id: int) -> int | None:
    """Queue the rule's message to some of those who are silent; the id to go on after, or None: that was all.

    Once for each silence: who comes back to life and falls silent again is asked again.
    """
    rows = await sql.fetch(_SILENT, rule.topic, rule.settings.after, after_id, MOST_SILENT)
    for row in rows:
        trigger = "contact" if rule.settings.once_per == "contact" else f"{row['since']:%Y-%m-%d}"
        await sends.queue(
            sql,
            key=f"{rule.name}:1:{row['address']}:{trigger}",
            recipient=row["address"],
            template=rule.settings.send,
            stream=rule.stream,
            topic=rule.topic,
            data={"event": None},
            delay=timedelta(0),
            cancel_on=rule.settings.unless,
            handler=f"{PREFIX}{rule.name}",
            event_id=None,
            rule=rule.name,
        )
    return rows[-1]["id"] if len(rows) == MOST_SILENT else None
