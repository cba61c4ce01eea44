"""What sends, put together from the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import asyncpg

from receiver.classify.bounces import classify
from receiver.contacts.handling import Contacts
from receiver.contacts.links import NoPublicUrl, list_unsubscribe_headers, unsubscribe_url
from receiver.contacts.rules import Rules, rules_of
from receiver.contacts.suppressing import verdict
from receiver.event import Event, EventType
from receiver.rule_settings import SILENT
from receiver.sending import broadcasts
from receiver.sending.accounts import Account
from receiver.sending.compose import Composer
from receiver.sending.reconciling import ask_providers
from receiver.sending.rules import Rule, ask_the_silent, find_rules
from receiver.sending.sender import Sender
from receiver.sending.settling import Bounced
from receiver.sending.templates import Templates, Unfit
from receiver.sending.transport import Rejected
from receiver.settings import Settings
from receiver.store import tasks
from receiver.store.sql import Sql
from receiver.vault import Vault

SILENT_EVERY: Final = timedelta(hours=1)


def sender_of(settings: Settings, accounts: Mapping[str, Account], vault: Vault, dsn: str) -> Sender | None:
    """What sends through these accounts; None: there are none."""
    if not accounts:
        return None
    templates = Templates(settings.sending.templates_dir)

    def unsubscribe(row: asyncpg.Record) -> Mapping[str, str]:
        """Of marketing mail. Raises Unfit: mail that nobody can leave is not sent."""
        try:
            url = unsubscribe_url(
                vault,
                settings.public_url,
                row["recipient"],
                topic=row["topic"] or "",
                brand=row["brand"],
                send=str(row["id"]),
            )
            return list_unsubscribe_headers(url)
        except NoPublicUrl as error:
            raise Unfit("no_public_url", str(error)) from None

    return Sender(
        dsn=dsn,
        accounts=accounts,
        compose=Composer(templates, unsubscribe),
        bounced=suppressing(vault, rules_of(settings)),
        rules=settings.sending,
        vault=vault,
        chores=[
            partial(broadcasts.fill, accounts=accounts),
            partial(_ask, rules=[one for one in find_rules(settings)[0] if one.settings.when == SILENT]),
            partial(ask_providers, accounts=accounts),
        ],
    )


async def _ask(sql: asyncpg.Pool, rules: Sequence[Rule]) -> None:
    """Look for those who have fallen silent: one process at a time, once an hour."""
    if not rules:
        return
    owner = tasks.this_process()
    if not await tasks.take(sql, "silent rules", owner, every=SILENT_EVERY):
        return
    for rule in rules:
        after: int | None = 0
        while after is not None and await tasks.renew(sql, "silent rules", owner):
            async with sql.acquire() as connection, connection.transaction():
                after = await ask_the_silent(connection, rule, after)
    await tasks.end(sql, "silent rules", owner)


def suppressing(vault: Vault, rules: Rules) -> Bounced:
    """By the same rules as bounces: the server that refuses a recipient has said it, and no webhook will repeat it."""

    async def bounced(sql: Sql, row: asyncpg.Record, account: str, why: Rejected) -> None:
        contacts, event = Contacts(sql, vault, rules), _bounce(row, account, why, datetime.now(UTC))
        await contacts.record([event])
        if (found := verdict(event, rules)) is not None:
            await contacts.suppress_many([replace(found, event_id=None)])  # no event of the log says so

    return bounced


def _bounce(row: asyncpg.Record, account: str, why: Rejected, at: datetime) -> Event:
    """The event that a provider would have told of. Its id is the send's."""
    found = classify(diagnostic=why.detail, enhanced_code=why.enhanced_code, smtp_code=why.smtp_code)
    return Event(
        id=row["id"],
        type=EventType.BOUNCED,
        source=account,
        provider="smtp",
        provider_type="refused",
        occurred_at=at,
        received_at=at,
        shard=0,
        gen=0,
        txid=0,
        position=0,
        recipient=row["recipient"],
        message_id=str(row["id"]),
        bounce_category=found.category,
        bounce_class=found.bounce_class,
        smtp_code=found.smtp_code,
        enhanced_code=found.enhanced_code,
        diagnostic=why.detail,
        stream=row["stream"],
        brand=row["brand"] or None,
    )
