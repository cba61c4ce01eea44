"""For authors of handlers: run a handler on made-up events, on a real Postgres, and look at what it did.

    async with Trial() as trial:
        result = await trial.run(suppression, event("bounced", recipient="ann@example.com", bounce_category="hard"))
        assert result.suppressions[0].reason == "hard_bounce"

Everything happens in one transaction that is rolled back at the end.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID, uuid4

import msgspec
import structlog
from pydantic import BaseModel

from receiver.contacts.handling import Contact, Contacts, normalized
from receiver.contacts.origin import Origin
from receiver.contacts.rules import Rules
from receiver.dispatch.calling import Caller, Raised, settled
from receiver.dispatch.database import Database
from receiver.dispatch.transaction import Transaction, TransactionSql
from receiver.event import Event, EventType, shard_of
from receiver.plugins.context import Context
from receiver.plugins.handlers import Handler
from receiver.plugins.outcomes import Outcome
from receiver.store.schema import migrate
from receiver.vault import Vault

VARIABLE: Final = "RECEIVER_TRIAL_DATABASE_URL"

_SENDS: Final = """
SELECT id, key, recipient, template, stream, topic, data, cancel_on, not_before - now() AS delay FROM sends
WHERE handler = $1 ORDER BY created_at, key
"""
_SUPPRESSIONS: Final = "SELECT reason, scope, brand, topic, since, active FROM suppressions WHERE address_hash = $1"
_SUBSCRIPTIONS: Final = "SELECT topic, state FROM subscriptions WHERE address_hash = $1 ORDER BY topic"


def event(type_: EventType | str, **columns: Any) -> Event:
    """An event as a handler gets it; every column of `events` may be given, the others have usual values."""
    now = datetime.now(UTC)
    id_: UUID = columns.get("id") or uuid4()
    recipient = columns.setdefault("recipient", "ann@example.com")
    values: dict[str, Any] = {
        "id": id_,
        "type": EventType(type_),
        "source": "test",
        "provider": "test",
        "provider_type": str(type_),
        "occurred_at": now,
        "received_at": now,
        "recipient_domain": recipient.rpartition("@")[2] if recipient else None,
        "message_id": f"message-{id_}",
        "shard": shard_of(recipient, None, id_.bytes),
        "gen": 1,
        "txid": 1,
        "position": 1,
    }
    # Through `convert`, so that words ("hard") become what they stand for and a mistyped value is noticed.
    return msgspec.convert(values | columns, Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """A queued message. `delay`: how much later than now it is to be sent."""

    id: UUID
    key: str
    recipient: str
    template: str
    stream: str
    topic: str | None
    data: Mapping[str, Any]
    cancel_on: list[str]
    delay: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed:
    """A suppression of one of the events' recipients."""

    address: str
    reason: str
    scope: str
    brand: str
    topic: str
    since: datetime
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a run. `outcome`: None where the handler's filters let nothing through.

    `events`: those handed over. `sends`: all that the handler has queued in this trial. `contacts` (by address),
    `suppressions` and `subscriptions` ((address, topic) to state): those of the events' recipients.
    """

    outcome: Outcome | None
    events: tuple[Event, ...]
    sends: list[Send]
    contacts: dict[str, Contact]
    suppressions: list[Suppressed]
    subscriptions: dict[tuple[str, str], str]


@dataclass(slots=True)
class Trial:
    """A transaction on a real Postgres in which handlers are tried, rolled back at the end.

    `dsn`: a database that `receiver migrate` has prepared; by default RECEIVER_TRIAL_DATABASE_URL, else an embedded
    Postgres that is started once for the process. `sql` and `contacts` look at, or prepare, what handlers see.
    """

    dsn: str | None = None
    vault: Vault = field(default_factory=lambda: Vault("trial " * 8))
    rules: Rules = field(default_factory=Rules)
    sql: TransactionSql = field(init=False)
    contacts: Contacts = field(init=False)
    _database: Database = field(init=False, repr=False)
    _transaction: Transaction = field(init=False, repr=False)

    async def __aenter__(self) -> Self:
        dsn = self.dsn or os.environ.get(VARIABLE) or await _embedded()
        self._database = Database(dsn, connections=1, idle_limit=3600, name="trial")
        await self._database.open()
        self._transaction = Transaction(self._database)
        self.sql = TransactionSql(self._transaction)
        self.contacts = Contacts(self.sql, self.vault, self.rules, Origin("trial", "handler"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transaction.close()
        self._database.close()

    async def run(
        self,
        handler: Handler,
        *events: Event,
        settings: BaseModel | None = None,
        attempt: int = 1,
        replaying: bool = False,
        now: datetime | None = None,
    ) -> Result:
        """Hand events to a handler as the service does: filtered, in a transaction, with its time limit.

        What the handler raises is raised here. `RetryAfter` and `GiveUp` undo its effects, as in the service.
        """
        caller = self.caller(handler, settings)
        wanted = tuple(one for one in events if handler.filter.accepts(one))
        context = caller.context(self._transaction, attempt=attempt, replaying=replaying, now=now)
        outcome = await self._call(caller, wanted, context) if wanted else None
        addresses = sorted({one.recipient for one in events if one.recipient})
        return Result(
            outcome=outcome,
            events=wanted,
            sends=await self._sends(handler.name),
            contacts={one: found for one in addresses if (found := await self.contacts.get(one))},
            suppressions=[row for one in addresses for row in await self._suppressions(one)],
            subscriptions={(one, topic): state for one in addresses for topic, state in await self._subscriptions(one)},
        )

    def caller(self, handler: Handler, settings: BaseModel | None = None) -> Caller:
        """What calls the handler, with settings: given here, bound before, or the model's defaults."""
        if handler.settings_type is not None:
            handler = replace(handler, settings=settings or handler.settings or handler.settings_type())
        return Caller(handler, self.vault, structlog.get_logger().bind(handler=handler.name), self.rules)

    async def _call(self, caller: Caller, events: tuple[Event, ...], context: Context[Any]) -> Outcome:
        self._transaction.begin_attempt()
        result = await caller.call_all(events, context)
        if isinstance(result, Raised):
            await self._transaction.undo_attempt()
            raise result.error
        if settled(result):
            self._transaction.check()
            await self._transaction.keep_attempt()
        else:
            await self._transaction.undo_attempt()
        return result

    async def _sends(self, handler: str) -> list[Send]:
        rows = [dict(row) for row in await self.sql.fetch(_SENDS, handler)]
        return [Send(**row | {"data": msgspec.json.decode(row["data"])}) for row in rows]

    async def _suppressions(self, address: str) -> list[Suppressed]:
        rows = await self.sql.fetch(_SUPPRESSIONS, self.vault.address_hash(normalized(address)))
        return [Suppressed(address=address, **dict(row)) for row in rows]

    async def _subscriptions(self, address: str) -> list[tuple[str, str]]:
        rows = await self.sql.fetch(_SUBSCRIPTIONS, self.vault.address_hash(normalized(address)))
        return [(row["topic"], row["state"]) for row in rows]


_server: list[str] = []  # the DSN of this process's embedded Postgres, once started


async def _embedded() -> str:
    """Start it in a temporary directory that is removed when the process ends."""
    if not _server:
        from receiver.embedded import start

        directory = Path(tempfile.mkdtemp(prefix="receiver-trial-"))
        running = start(directory, settings={"fsync": "off", "full_page_writes": "off"})
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        atexit.register(running.stop)
        await migrate(running.dsn())
        _server.append(running.dsn())
    return _server[0]
