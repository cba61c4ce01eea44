"""What sends, put together from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import asyncpg

from receiver.classify.bounces import classify
from receiver.contacts.handling import Contacts
from receiver.contacts.links import list_unsubscribe_headers, unsubscribe_url
from receiver.event import BounceCategory
from receiver.sending.accounts import Account
from receiver.sending.compose import Composer
from receiver.sending.sender import Bounced, Sender
from receiver.sending.templates import Templates
from receiver.sending.transport import Rejected
from receiver.settings import Settings
from receiver.store.sql import Sql
from receiver.vault import Vault


def sender_of(settings: Settings, accounts: Mapping[str, Account], vault: Vault, dsn: str) -> Sender | None:
    """What sends through these accounts; None: there are none."""
    if not accounts:
        return None
    templates = Templates(settings.sending.templates_dir)

    public_url = settings.public_url or ""
    reachable = public_url.startswith("https://")  # one-click unsubscribing (RFC 8058) has no other

    def unsubscribe(row: asyncpg.Record) -> Mapping[str, str]:
        if not reachable:
            return {}
        about = {"topic": row["topic"] or "", "brand": row["brand"], "send": str(row["id"])}
        return list_unsubscribe_headers(unsubscribe_url(vault, public_url, row["recipient"], **about))

    return Sender(
        dsn=dsn,
        accounts=accounts,
        compose=Composer(templates, unsubscribe),
        bounced=suppressing(vault),
        rules=settings.sending,
        vault=vault,
    )


def suppressing(vault: Vault) -> Bounced:
    """A server that refuses a recipient for good has said what a bounce says, and no webhook will repeat it."""

    async def bounced(sql: Sql, row: asyncpg.Record, why: Rejected) -> None:
        found = classify(diagnostic=why.detail, enhanced_code=why.enhanced_code, smtp_code=why.smtp_code)
        if found.category is BounceCategory.HARD:
            at = datetime.now(UTC)
            source = row["account"] or "smtp"
            await Contacts(sql, vault).suppress(row["recipient"], at=at, reason="hard_bounce", source=source)

    return bounced
