"""The work of `receiver refused release`: verify kept requests with the present settings, store what is authentic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from receiver.cli.asking import go_on
from receiver.cli.database import connected
from receiver.cli.failures import CommandError
from receiver.cli.lines import note, say
from receiver.cli.output import json_line, table
from receiver.cli.place import Place, who
from receiver.cli.progress import progress
from receiver.contract import Answer, Delivery
from receiver.errors import ConfigError, Unavailable
from receiver.faults import did_you_mean
from receiver.ingest.diagnosis import Clinic
from receiver.ingest.head import delivery_of
from receiver.ingest.receive import Ingest, Receipt
from receiver.ingest.refusals import Refusals
from receiver.ingest.writer import Writer
from receiver.outbound import Outbound
from receiver.sources import Source
from receiver.store import refused
from receiver.store.address_keys import check_address_key
from receiver.store.privacy import Privacy
from receiver.store.queries import write_audit
from receiver.vault import Vault

PATIENCE: Final = 60.0  # seconds for one request to be committed


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A refused request, and what becomes of it."""

    id: int
    refused_at: datetime
    reason: str
    times: int
    outcome: str
    delivery: Delivery
    authentic: bool


@asynccontextmanager
async def clinic_of(place: Place, name: str) -> AsyncIterator[tuple[Clinic, Source]]:
    """The sources as they are configured now, and the one of that name. Raises CommandError, ConfigError."""
    configured = place.settings.sources
    if name not in configured:
        raise CommandError(f"there is no source {name!r}{did_you_mean(name, configured)}")
    outbound = Outbound()
    try:
        clinic = Clinic(place.settings, outbound.fetch)
        if name not in clinic.sources:
            raise ConfigError([one for one in clinic.problems if one.key.startswith(f"sources.{name}")])
        yield clinic, clinic.sources[name]
    finally:
        await outbound.aclose()


def opened(row: asyncpg.Record, vault: Vault) -> tuple[Delivery, bool]:
    """The request as it came, and whether its body was kept whole. Raises WrongSecretKey."""
    head, body = (vault.decrypt(row[name], context="refused") for name in ("headers", "body"))
    delivery = delivery_of(head, body, source=row["source"], at=row["refused_at"], client=row["client_ip"])
    return delivery, len(body) == row["size"]


async def release(place: Place, name: str, *, since: datetime | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Raises CommandError, ConfigError."""
    async with clinic_of(place, name) as (clinic, source), connected(place.database()) as connection:
        vault = place.vault()
        await check_address_key(connection, vault.address_fingerprint)
        rows = await refused.kept(connection, name, since=since)
        with progress("verifying", len(rows)) as done:
            found = [await _verify(clinic, source, row, vault) for row in _counted(rows, done)]
        _announce(found, as_json=as_json)
        authentic = [one for one in found if one.authentic]
        if not authentic or not go_on(dry_run=dry_run, yes=yes):
            return
        await write_audit(connection, who(), "release", f"{len(authentic)} refused requests of {name}")
        await _store(connection, place, source, authentic, tell=note if as_json else say)


def _counted(rows: Sequence[asyncpg.Record], done: Any) -> Any:
    for number, row in enumerate(reversed(rows), 1):  # the oldest first
        yield row
        done(number)


async def _verify(clinic: Clinic, source: Source, row: asyncpg.Record, vault: Vault) -> Kept:
    delivery, whole = opened(row, vault)
    authentic, outcome = False, "not kept whole"
    try:
        if whole:
            refusal = await clinic.refusal(source, delivery)
            authentic = refusal is None
            outcome = f"still refused: {refusal.detail}" if refusal else "authentic now"
    except Unavailable as error:
        outcome = f"cannot be verified now: {error}"
    return Kept(
        id=row["id"],
        refused_at=row["refused_at"],
        reason=row["reason"],
        times=row["times"],
        outcome=outcome,
        delivery=delivery,
        authentic=authentic,
    )


def _announce(found: Sequence[Kept], *, as_json: bool) -> None:
    names = ("id", "refused_at", "reason", "outcome")
    rows = [{name: getattr(one, name) for name in names} for one in found]
    if as_json:
        for row in rows:
            json_line(row)
    else:
        table(names, ([row[name] for name in names] for row in rows), empty="no refused requests are kept")
    authentic = sum(one.authentic for one in found)
    note(f"{authentic} of {len(found)} kept requests are authentic with the present settings")
    lost = sum(one.times - 1 for one in found)
    if lost:
        note(f"{lost} more like them were refused and not kept: only the provider can send those again")


async def _store(
    connection: asyncpg.Connection, place: Place, source: Source, kept: Sequence[Kept], *, tell: Callable[[str], None]
) -> None:
    """One after the other by the way that a delivery takes; each is forgotten as refused once it is stored."""
    vault, dsn = place.vault(), place.database()
    writer = Writer(dsn, Privacy(vault.address_hash, place.settings.privacy.drop))
    ingest = Ingest(writer, vault, Refusals(dsn, vault))
    await writer.start()
    stored = 0
    try:
        with progress("storing", len(kept)) as done:
            for number, one in enumerate(kept, 1):
                answer = await _receive(ingest, source, one.delivery)
                if answer.status == source.provider.reply.stored:
                    await refused.remove(connection, one.id)
                    stored += 1
                done(number)
    finally:
        await writer.stop()
        tell(f"stored {stored} of {len(kept)}; new events: {writer.counts['new']}, known before: {_known(writer)}")


def _known(writer: Writer) -> int:
    return writer.counts["rows"] - writer.counts["new"]


async def _receive(ingest: Ingest, source: Source, delivery: Delivery) -> Answer:
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    receipt = Receipt(source, delivery, deadline=time.monotonic() + PATIENCE, answer=answered.set_result)
    await ingest.receive([receipt])
    return await answered
