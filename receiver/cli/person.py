"""The work of `receiver contacts show`: what is known of one person, and why they may be mailed or not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from receiver.cli.database import connected
from receiver.cli.failures import CommandError
from receiver.cli.lines import say
from receiver.cli.output import json_line, json_pretty, pairs, table
from receiver.cli.output import show as print_for_people
from receiver.cli.place import Place
from receiver.contacts.addresses import WrongAddress, entered
from receiver.contacts.handling import normalized
from receiver.contacts.holders import Holder, lists_in, perhaps_held_by
from receiver.store import people
from receiver.store.address_keys import check_address_key
from receiver.store.people import Person

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_HIDDEN: Final = frozenset({"address_hash"})
_OF_THE_EVENT: Final = (
    "event_type", "event_at", "provider", "message_id", "bounce_category", "bounce_class", "smtp_code", "enhanced_code",
    "reject_reason", "diagnostic",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """Everything that `show` shows."""

    person: Person
    erased_at: datetime | None
    engagement: asyncpg.Record
    subscriptions: Sequence[asyncpg.Record]
    sendable: Sequence[asyncpg.Record]
    suppressions: Sequence[asyncpg.Record]
    perhaps_held_by: Sequence[Holder]
    timeline: Sequence[asyncpg.Record]


def looked_up(address: str) -> str:
    """The normalized form of an address that somebody typed; also of one that mail could not be sent to.

    Raises CommandError.
    """
    try:
        return entered(address).key
    except WrongAddress as error:
        try:
            return normalized(address)
        except ValueError:
            raise CommandError(str(error)) from None


@asynccontextmanager
async def found(place: Place, address: str) -> AsyncIterator[tuple[asyncpg.Connection, Person]]:
    """A connection and the person. Raises CommandError, ConfigError, SchemaError (another address key)."""
    key, vault = looked_up(address), place.vault()
    async with connected(place.database()) as connection:
        await check_address_key(connection, vault.address_fingerprint)
        yield connection, await people.find_person(connection, key, vault.address_hash)


async def show(place: Place, address: str, *, limit: int, raw: bool, as_json: bool) -> None:
    async with found(place, address) as (connection, person):
        known = Known(
            person,
            await people.erased_at(connection, person),
            await people.engagement(connection, person),
            await people.subscriptions(connection, person),
            await people.sendable(connection, person),
            await people.suppressions(connection, person),
            await perhaps_held_by(connection, person.hashes, person.addresses, lists_in(place.settings)),
            await people.timeline(connection, person, limit),
        )
    if as_json:
        json_line(_as_json(known, raw=raw))
    else:
        _print(known, raw=raw)


def _as_json(known: Known, *, raw: bool) -> dict[str, Any]:
    return {
        "address": known.person.address,
        "contact": contact_fields(known.person),
        "erased_at": known.erased_at,
        "addresses_before": _dicts(known.person.before),
        "engagement": dict(known.engagement),
        "subscriptions": _dicts(known.subscriptions),
        "sendable": _dicts(known.sendable),
        "suppressions": [
            _without_raw(row) | ({"raw": _decoded(row["raw"])} if raw else {}) for row in known.suppressions
        ],
        "perhaps_held_by": [one._asdict() for one in known.perhaps_held_by],
        "timeline": _dicts(known.timeline),
    }


def contact_fields(person: Person) -> dict[str, Any] | None:
    """The row of `contacts` without its hash."""
    if person.contact is None:
        return None
    values = {name: value for name, value in person.contact.items() if name not in _HIDDEN}
    return values | {"attributes": json.loads(values["attributes"])}


def _dicts(rows: Iterable[asyncpg.Record]) -> list[dict[str, Any]]:
    return [dict(row) for row in rows]


def _decoded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _without_raw(row: asyncpg.Record) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "raw"}


# For people -------------------------------------------------------------------------------------------------------


def _print(known: Known, *, raw: bool) -> None:
    _print_who(known)
    say("")
    rows = [
        (row["topic"] or "(no topic)", row["stream"], row["sendable"], row["reason"], row["since"], row["until"])
        for row in known.sendable
    ]
    table(("topic", "stream", "may be sent", "why not", "since", "until"), rows)
    if known.subscriptions:
        say("")
        table(tuple(known.subscriptions[0].keys()), (tuple(row) for row in known.subscriptions))
    for row in known.suppressions:
        say("")
        _print_suppression(row, raw=raw)
    for one in known.perhaps_held_by:
        say("")
        say(_still_held(one))
    say("")
    names = ("at", "what", "source", "detail", "id")
    table(names, ([row[name] for name in names] for row in known.timeline), empty="nothing has happened")


def _still_held(one: Holder) -> str:
    lifted = (
        f"lifted here on {one.since:%Y-%m-%d %H:%M} UTC; {one.provider} may still hold it back by a list of its own"
    )
    if one.account is None:
        return f"{lifted}, which is to be looked at there: the configuration has no account of it"
    return f"{lifted}: `receiver suppressions sync {one.account}` shows it, and with --push takes it off"


def _print_who(known: Known) -> None:
    person, fields = known.person, contact_fields(known.person)
    if fields is None:
        say(f"{person.address}: {_stranger(known)}")
        return
    before = [row["address"] for row in person.before]
    values = {name: value for name, value in fields.items() if value not in (None, [], {}, "")}
    counts = {f"messages {name}": count for name, count in known.engagement.items()}
    print_for_people(pairs(values | counts | ({"addresses before": before} if before else {})))


def _stranger(known: Known) -> str:
    since = min((row["since"] for row in known.suppressions if row["active"]), default=None)
    suppressed = f", but suppressed since {since:%Y-%m-%d %H:%M:%S}" if since else ""
    if known.erased_at is not None:
        return f"erased on {known.erased_at:%Y-%m-%d %H:%M:%S}{suppressed or ', and not suppressed'}"
    if not known.timeline and not known.subscriptions:
        return "nobody knows this address"
    return f"deleted or never a contact{suppressed or ', and not suppressed'}"


def _print_suppression(row: asyncpg.Record, *, raw: bool) -> None:
    own = {name: row[name] for name in row.keys() if name not in _OF_THE_EVENT and name != "raw"}  # noqa: SIM118 - a Record is no dict
    title = f"{'suppressed' if row['active'] else 'was suppressed'}: {row['reason']}"
    why = {name.replace("event_", "event's "): row[name] for name in _OF_THE_EVENT}
    shown = {name: value for name, value in (own | why).items() if value not in (None, "")}
    if row["event_id"] is not None and row["event_type"] is None:
        shown["event"] = "is not kept any more (retention)"
    print_for_people(pairs(shown, title=title))
    if raw and row["raw"] is not None:
        print_for_people(json_pretty(row["raw"]))
