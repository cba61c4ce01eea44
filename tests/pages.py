"""What tests of the pages share: topics and contacts, the links to their pages, and what came of a visit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from receiver.contacts.addresses import entered
from receiver.contacts.links import Leaving, unsubscribe_token
from receiver.contacts.opt_in import Asked, Request, request
from receiver.page_settings import PageSettings
from receiver.sending.means import Means
from receiver.sending.templates import Templates
from receiver.store.consent import Action, Statement, record
from receiver.vault import Vault
from tests.service import SECRET_KEY

VAULT: Final = Vault(SECRET_KEY)
ADA: Final = "ada@example.com"
URL: Final = "https://hooks.example.net"
PAGES: Final = PageSettings(name="Acme", brands={"shop": "Acme Shop"}, support="help@acme.example")
MEANS: Final = Means(templates=Templates(Path("templates")), accounts=("main",), public_url=URL)
OLD: Final = datetime(2026, 1, 1, tzinfo=UTC)


def hash_of(address: str = ADA) -> bytes:
    return VAULT.address_hash(address)


async def topic(sql: asyncpg.Connection, name: str, title: str = "", **columns: Any) -> None:
    columns = {"name": name, "title": title or name.title(), **columns}
    numbers = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    await sql.execute(f"INSERT INTO topics ({', '.join(columns)}) VALUES ({numbers})", *columns.values())


async def contact(sql: asyncpg.Connection, address: str = ADA) -> None:
    await sql.execute("INSERT INTO contacts (address, address_hash) VALUES ($1, $2)", address, hash_of(address))


async def said(sql: asyncpg.Connection, action: Action, name: str, *, at: datetime = OLD, address: str = ADA) -> None:
    """As if an import had said it."""
    one = Statement(
        address_hash=hash_of(address), address=address, action=action, topic=name, at=at, source="cli", method="import"
    )
    await record(sql, [one])


async def states(sql: asyncpg.Connection, address: str = ADA) -> dict[str, str]:
    rows = await sql.fetch("SELECT topic, state FROM subscriptions WHERE address_hash = $1", hash_of(address))
    return dict(map(tuple, rows))


async def suppressed(sql: asyncpg.Connection, reason: str, scope: str, *, brand: str = "") -> None:
    """As if an event had said it of Ada; without a brand, of every one."""
    await sql.execute(
        "INSERT INTO suppressions (address_hash, reason, scope, brand, since, last_at, source) "
        "VALUES ($1, $2, $3, $4, $5, $5, 'x')",
        hash_of(),
        reason,
        scope,
        brand,
        OLD,
    )


async def log(sql: asyncpg.Connection, *columns: str) -> Sequence[tuple[Any, ...]]:
    """What pages have written into consent_log, in order."""
    names = ", ".join(columns)
    rows = await sql.fetch(f"SELECT {names} FROM consent_log WHERE source = 'page' ORDER BY id")
    return [tuple(row) for row in rows]


async def may_be_mailed(sql: asyncpg.Connection, name: str, address: str = ADA) -> str | None:
    """Why not; None: yes."""
    found: str | None = await sql.fetchval("SELECT reason FROM sendable($1, $2)", hash_of(address), name)
    return found


async def ask(sql: asyncpg.Connection, name: str, *, at: datetime, address: str = ADA) -> Asked:
    """Request a subscription as an application would."""
    asked = Request(
        address=entered(address),
        topic=name,
        source="api:test",
        method="api",
        at=at,
        now=at,
        wording="Yes, the news please.",
    )
    async with sql.transaction():
        return await request(sql, VAULT, URL, asked)


async def mailed(sql: asyncpg.Connection, template: str) -> list[str]:
    """The paths of the links in the mails that are queued, the latest last."""
    rows = await sql.fetch("SELECT data FROM sends WHERE template = $1 ORDER BY created_at, key", template)
    return [msgspec.json.decode(row["data"])["url"].removeprefix(URL) for row in rows]


def leave_path(name: str = "news", *, address: str = ADA, brand: str = "", send: str = "") -> str:
    return "/u/" + unsubscribe_token(VAULT, Leaving(hash_of(address), name, brand, send))
