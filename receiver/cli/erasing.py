"""The work of `receiver contacts erase`: say what is there, ask, erase, prove, report."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

import asyncpg

from receiver.cli.asking import go_on
from receiver.cli.database import connected
from receiver.cli.failures import CommandError
from receiver.cli.lines import note, say
from receiver.cli.output import json_line, table
from receiver.cli.person import found
from receiver.cli.place import Place, who
from receiver.cli.progress import progress
from receiver.contacts.erasing import Erasure, Searched
from receiver.store import erasing, searching
from receiver.store.address_keys import check_address_key
from receiver.store.people import Person
from receiver.store.queries import write_audit
from receiver.store.searching import Table
from receiver.vault import Vault

_SHOWN: Final = 12  # characters of a hash, for the audit log


async def erase(place: Place, address: str, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Raises CommandError where something is left, or nobody is there to ask."""
    vault = place.vault()
    async with found(place, address) as (connection, person):
        tables = await searching.list_tables(connection)
        if not (yes and as_json):
            await _announce(connection, person, tables)
        if not go_on(dry_run=dry_run, yes=yes):
            return
        try:
            run, proof = await _erase(connection, vault, person, tables)
        except asyncio.CancelledError:
            note("stopped: what was done until now is whole and stays; say the same again to go on")
            raise
        stays = await erasing.kept(connection, run.hashes)
    _report(run.did, as_json=as_json)
    _report_proof(proof, as_json=as_json)
    note(f"kept by hash alone: {stays['suppressions']} suppressions, {stays['unsubscribed']} unsubscribed topics")
    _judge(proof, tables)


async def again(place: Place, *, as_json: bool) -> None:
    """Clean what is encrypted of all who were erased before."""
    vault = place.vault()
    async with connected(place.database()) as connection:
        await check_address_key(connection, vault.address_fingerprint)
        await write_audit(connection, who(), "erase", "what is encrypted, of all who were erased before")
        run = Erasure(connection, vault, [])
        await run.clean_sealed_again()
    _report(run.did, as_json=as_json)


async def _announce(connection: asyncpg.Connection, person: Person, tables: Sequence[Table]) -> None:
    note(f"erases {', '.join(person.addresses)}")
    counts = await erasing.held(connection, person.addresses, [*person.hashes])
    rows = [(name, does, count) for (name, does), count in counts.items() if count]
    table(("table", "does", "rows"), rows, empty="no key leads to anything; all tables are searched nevertheless")
    size = sum(one.blocks for one in tables) * 8 / 1024
    note(f"then {len(tables)} tables ({size:,.0f} MB) are searched twice for what else names the person, and cleaned")
    note("what handlers have sent elsewhere (such as `forward`), backups, and what the providers keep is not undone")


async def _erase(
    connection: asyncpg.Connection, vault: Vault, person: Person, tables: Sequence[Table]
) -> tuple[Erasure, list[Searched]]:
    display = person.contact["display_address"] if person.contact else None
    run = Erasure(connection, vault, person.addresses, [display] if display else [])
    blocks = sum(one.blocks for one in tables)
    await write_audit(connection, who(), "erase", f"address {person.address_hash.hex()[:_SHOWN]}")
    await run.bury(who(), note)
    await run.by_key(note)
    with progress("clean", blocks) as show:
        await run.clean(tables, show)
    tables = await searching.list_tables(connection)  # what was changed stands at their ends
    with progress("prove", sum(one.blocks for one in tables)) as show:
        return run, await run.prove(tables, show)


def _report(did: Counter[tuple[str, str]], *, as_json: bool) -> None:
    rows = [(name, what, count) for (name, what), count in sorted(did.items()) if count]
    if as_json:
        for name, what, count in rows:
            json_line({"part": "done", "table": name, "did": what, "rows": count})
    else:
        table(("table", "did", "rows"), rows, empty="there was nothing to remove")


def _report_proof(proof: Sequence[Searched], *, as_json: bool) -> None:
    if as_json:
        for one in proof:
            json_line({"part": "proof", "table": one.table, "rows": one.rows, "hits": one.hits, "unread": one.unread})
        return
    say("")
    names = ("searched", "rows", "hits", "not decrypted")
    table(names, ((one.table, one.rows if one.readable else "no right to read", one.hits, one.unread) for one in proof))


def _judge(proof: Sequence[Searched], tables: Sequence[Table]) -> None:
    """Raises CommandError unless nothing is left, as far as can be seen."""
    left = [one for one in proof if not one.proven]
    if not left:
        note(f"proven: none of {sum(one.rows for one in proof):,} rows names the person")
        return
    ours = {one.name: one.ours for one in tables}
    parts = []
    for one in left:
        if not one.readable:
            parts.append(f"{one.table} cannot be read by this account of the database")
        if one.unread:
            parts.append(f"{one.table} has {one.unread} rows under other secret keys (set previous_secret_keys)")
        if one.hits:
            whose = "" if ours.get(one.table, True) else ", which is not ours: take the person out of it yourself"
            parts.append(f"{one.table} has {one.hits} rows that name the person{whose}")
    raise CommandError(f"not all is gone: {'; '.join(parts)}")
