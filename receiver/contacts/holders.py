"""Providers that may still hold back mail to somebody who was lifted here: each keeps a list of its own.

What is said here is what our own tables lead to. `receiver suppressions sync` asks the provider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from receiver.settings import Settings
from receiver.store import holders
from receiver.store.sql import Sql

KEEP_LISTS: Final = frozenset({"mailgun", "postmark", "resend", "sendgrid", "ses"})  # and can be asked for them
SYNC: Final = "sync:"  # source of what was pushed to an account, before its name
_IMPORT: Final = "import:"


class Holder(NamedTuple):
    """`account`: through which `suppressions sync` can take it off; None: there is none. `since`: the lift here."""

    provider: str
    account: str | None
    since: datetime


@dataclass(frozen=True, slots=True)
class Lists:
    """The providers of the sources, and of the accounts, by name."""

    sources: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, str] = field(default_factory=dict)


def lists_in(settings: Settings) -> Lists:
    """Those of the configuration."""
    return Lists(
        {name: str(table.get("provider")) for name, table in settings.sources.items()},
        {name: str(table.get("transport")) for name, table in settings.accounts.items()},
    )


async def perhaps_held_by(
    sql: Sql, address_hashes: Sequence[bytes], addresses: Sequence[str], lists: Lists
) -> list[Holder]:
    """Who may hold mail to this person back though nothing does here.

    Nobody, once it was taken off there by a push, or the provider has delivered something since.
    """
    if await holders.held_here(sql, address_hashes):
        return []
    found: dict[tuple[str, str | None], datetime] = {}
    for row in await holders.lifted(sql, address_hashes):
        provider = row["provider"] or _provider_of(row["source"], lists)
        if provider in KEEP_LISTS:
            found |= dict.fromkeys(_accounts_of(provider, lists), row["at"])
    for row in await holders.pushed(sql, address_hashes):
        key = _pushed_to(row["source"], lists)
        if row["action"] == "suppressed":
            found[key] = max(row["at"], found.get(key, row["at"]))
        elif key in found and found[key] <= row["at"]:
            del found[key]
    delivered = {row["provider"]: row["at"] for row in await holders.delivered(sql, addresses)}
    return [
        Holder(*key, since)
        for key, since in sorted(found.items(), key=lambda one: (one[0][0], one[0][1] or ""))
        if key[0] in KEEP_LISTS and not (key[0] in delivered and delivered[key[0]] > since)
    ]


def _provider_of(source: str, lists: Lists) -> str | None:
    """The source of a suppression is one of events, an import of a provider's list, or the account that was refused."""
    if source.startswith(_IMPORT):
        return source.removeprefix(_IMPORT)
    return lists.sources.get(source) or lists.accounts.get(source)


def _accounts_of(provider: str, lists: Lists) -> list[tuple[str, str | None]]:
    accounts = [(provider, name) for name, transport in lists.accounts.items() if transport == provider]
    return [*accounts] or [(provider, None)]


def _pushed_to(source: str, lists: Lists) -> tuple[str, str | None]:
    account = source.removeprefix(SYNC)
    return lists.accounts.get(account, ""), account
