"""The work of the commands that change one person by hand; each leaves a row in `audit_log`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg

from receiver.cli.contact_files import require_topics
from receiver.cli.database import connected
from receiver.cli.failures import CommandError
from receiver.cli.lines import note, say
from receiver.cli.place import Place, who
from receiver.cli.subscribing import entered_address
from receiver.contacts.configured import policy_of
from receiver.contacts.moving import move
from receiver.contacts.origin import Origin
from receiver.store import address_book, moves
from receiver.store.address_keys import check_address_key
from receiver.store.consent import Statement, record, sendable
from receiver.store.contacts import forget_erasure
from receiver.store.queries import write_audit
from receiver.vault import Vault


@asynccontextmanager
async def _changing(place: Place) -> AsyncIterator[tuple[asyncpg.Connection, Vault]]:
    """One transaction. Its audit names no address: it outlives an erasure."""
    vault = place.vault()
    async with connected(place.database()) as connection:
        await check_address_key(connection, vault.address_fingerprint)
        try:
            async with connection.transaction():
                yield connection, vault
        except asyncpg.UniqueViolationError as error:
            what = "external id" if "external_id" in (error.constraint_name or "") else "address"
            raise CommandError(f"another contact has this {what}") from None


async def add(place: Place, address: str, values: Mapping[str, Any]) -> None:
    """Raises CommandError."""
    key, display = entered_address(address)
    async with _changing(place) as (connection, vault):
        if await address_book.find(connection, "address", key) is not None:
            raise CommandError("there is a contact with this address: `receiver contacts edit` changes it")
        hash_ = vault.address_hash(key)
        row = await address_book.save(connection, key, hash_, display, values)
        await write_audit(connection, who(), "contacts add", f"contact {row['id']}")
        (may,) = await sendable(connection, [hash_], None, "transactional")
        await forget_erasure(connection, hash_)
    say("added one contact")
    if may["reason"] == "erased":
        note("the person had been erased; they are known again from now on")


async def edit(place: Place, address: str, values: Mapping[str, Any], new: str | None, why: str) -> None:
    """Raises CommandError."""
    to = None if new is None else entered_address(new)
    async with _changing(place) as (connection, vault):
        row = await _found(connection, address)
        await write_audit(connection, who(), "contacts edit", f"contact {row['id']}")
        if values:
            await address_book.edit(connection, row["id"], values)
        if to is not None:
            other = await address_book.find(connection, "address", to.key)
            if other is not None and other["id"] != row["id"]:
                raise CommandError("another contact has this address")
            old, keys = row["address"], (to.key, vault.address_hash(to.key))
            origin = Origin(source=who(), method="cli")
            before, policy = (old, row["address_hash"]), policy_of(place.settings.policy)
            await move(connection, policy, before, keys, at=datetime.now(UTC), why=why, origin=origin)
    say("changed one contact")


async def tag(place: Place, address: str, *, add: Sequence[str], remove: Sequence[str]) -> None:
    """Raises CommandError."""
    async with _changing(place) as (connection, _):
        row = await _found(connection, address)
        changed = await address_book.tag(connection, row["id"], add, remove)
        await write_audit(connection, who(), "contacts tag" if add else "contacts untag", f"contact {row['id']}")
    assert changed is not None
    say(f"tags: {', '.join(changed['tags']) or 'none'}")


async def unsubscribe(place: Place, address: str, topic: str, wording: str | None) -> None:
    """Raises CommandError for an unknown topic. Whoever it is: who is no contact may leave, too."""
    key = entered_address(address).key
    async with _changing(place) as (connection, vault):
        await require_topics(connection, [topic])
        said = Statement(
            address_hash=vault.address_hash(key),
            address=key,
            action="unsubscribed",
            at=datetime.now(UTC),
            topic=topic,
            source="cli",
            method="cli",
            wording=wording,
            detail={"who": who()},
        )
        await record(connection, await moves.also(connection, [said]))
        await write_audit(connection, who(), "contacts unsubscribe", f"topic {topic}")
    say(f"unsubscribed from {topic}")


async def _found(connection: asyncpg.Connection, address: str) -> asyncpg.Record:
    row = await address_book.find(connection, "address", entered_address(address).key, lock=True)
    if row is None:
        raise CommandError("there is no contact with this address: `receiver contacts add` adds one")
    return row
