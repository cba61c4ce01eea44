"""What the commands of `receiver suppressions` do."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from receiver.cli.failures import CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    import asyncpg

    from receiver.cli.place import Place
    from receiver.contacts.addresses import Address
    from receiver.contacts.policy import Policy
    from receiver.store.suppression_list import By, Reason, Suppressed, Which
    from receiver.vault import Vault

ONE_BY_ONE: Final = ("complaint", "unsubscribe")  # what people have said themselves is not undone in bulk
SAMPLE: Final = 10
BATCH: Final = 500
_ELSEWHERE: Final = (
    "the email provider may hold mail back by a list of its own: "
    "`receiver suppressions sync ACCOUNT --push` takes it off there"
)


async def list_all(place: Place, which: Which, limit: int, *, as_json: bool) -> None:
    """Print the suppressions."""
    from receiver.cli.database import connected
    from receiver.store.suppression_list import list_suppressions

    async with connected(place.database()) as connection:
        _print(await list_suppressions(connection, which, limit=limit), as_json=as_json)


async def show_one(place: Place, address: str, *, as_json: bool) -> None:
    """Print what there is about an address, and what it comes to."""
    from receiver.cli.lines import say
    from receiver.cli.output import json_line
    from receiver.store.consent import sendable
    from receiver.store.suppression_list import Which, list_suppressions

    key = _entered(address).key
    async with _hashing(place) as (connection, vault):
        hashed = vault.address_hash(key)
        found = await list_suppressions(connection, Which(address_hash=hashed), limit=100)
        answers = {stream: (await sendable(connection, [hashed], None, stream))[0] for stream in _STREAMS}
    if as_json:
        for one in found:
            json_line(_as_json(one) | {"address": key})
        return
    for stream, answer in answers.items():
        why = "" if answer["sendable"] else f": {answer['reason']} since {answer['since']:%Y-%m-%d %H:%M} UTC"
        until = f", until {answer['until']:%Y-%m-%d %H:%M} UTC" if answer["until"] else ""
        say(f"{stream}: {'nothing suppresses it' if answer['sendable'] else 'must not be sent'}{why}{until}")
    for one in found:
        _show(one)


async def add_one(
    place: Place, address: str, reason: Reason, scope: Literal["all", "marketing"], brand: str, note: str
) -> None:
    """Suppress an address, and record who did it."""
    from receiver.cli.lines import say
    from receiver.store.queries import write_audit
    from receiver.store.suppression_list import Added, add

    key = _entered(address).key
    async with _hashing(place) as (connection, vault), connection.transaction():
        one = Added(
            address=key,
            address_hash=vault.address_hash(key),
            reason=reason,
            scope=scope,
            at=await connection.fetchval("SELECT now()"),
            brand=brand,
            note=note,
        )
        await add(connection, one, by := _by_hand())
        await write_audit(connection, by.who, "suppress", f"{_short(one.address_hash)}: {reason}, {scope}")
    say(f"suppressed: {'marketing' if scope == 'marketing' else 'all'} mail{f' of {brand}' if brand else ''}, {reason}")


async def lift_some(
    place: Place, which: Which, address: str | None, why: str, *, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Look, ask, lift; one address is not asked about."""
    from receiver.cli.asking import go_on
    from receiver.cli.lines import note, say
    from receiver.contacts.configured import policy_of
    from receiver.store.suppression_list import count_suppressions, list_suppressions

    if not why.strip():
        raise CommandError("say why: --why must not be empty")
    if address is None:
        _require_scope(which)
    async with _hashing(place) as (connection, vault):
        if address is not None:
            which = replace(which, address_hash=vault.address_hash(_entered(address).key))
        count = await count_suppressions(connection, which)
        if not count:
            raise CommandError("there is nothing to lift: `receiver suppressions list` with the same options shows why")
        if dry_run or not address:
            _print(await list_suppressions(connection, which, limit=SAMPLE), as_json=as_json)
            note(f"{_suppressions(count)} to be lifted{f'; these are {SAMPLE} of them' if count > SAMPLE else ''}")
        if not go_on(dry_run=dry_run, yes=yes or address is not None):
            return
        done = await _in_batches(connection, which, why, count, policy_of(place.settings.policy))
    (note if as_json else say)(f"lifted {_suppressions(done)}")
    note(_ELSEWHERE)


async def _in_batches(connection: asyncpg.Connection, which: Which, why: str, count: int, policy: Policy) -> int:
    """Each batch is one transaction: Ctrl-C between two leaves nothing half done."""
    from receiver.cli.lines import note
    from receiver.cli.place import who
    from receiver.cli.progress import progress
    from receiver.contacts.recording import settle
    from receiver.store.queries import write_audit
    from receiver.store.suppression_list import lift

    done, last = 0, b""
    with progress("suppressions", count) as show_progress:
        try:
            while True:
                async with connection.transaction():
                    some = await lift(connection, which, by=_by_hand(), why=why, after=last, limit=BATCH)
                    if some and not done:
                        await write_audit(connection, who(), "lift", f"{_suppressions(count)}: {_words(which)}: {why}")
                    if which.reason == "soft_bounce":  # the bounces in a row begin anew
                        await settle(connection, policy, some)
                if not some:
                    return done
                done, last = done + len(some), some[-1]
                show_progress(done)
        except asyncio.CancelledError:
            note(f"stopped after {done} of {count}; say it again for the rest")
            raise


_STREAMS: Final = ("marketing", "transactional")


def _hashing(place: Place) -> AbstractAsyncContextManager[tuple[asyncpg.Connection, Vault]]:
    """A connection, and what makes hashes that this database knows. Raises ConfigError, SchemaError."""
    from contextlib import asynccontextmanager

    from receiver.cli.database import connected
    from receiver.store.address_keys import check_address_key

    vault = place.vault()

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[asyncpg.Connection, Vault]]:
        async with connected(place.database()) as connection:
            await check_address_key(connection, vault.address_fingerprint)
            yield connection, vault

    return opened()


def _by_hand() -> By:
    from receiver.cli.place import who
    from receiver.store.suppression_list import By

    return By(who=who(), source="cli", method="cli")


def _entered(address: str) -> Address:
    from receiver.contacts.addresses import WrongAddress, entered

    try:
        return entered(address)
    except WrongAddress as error:
        raise CommandError(f"this is no address: {error}") from error


def _require_scope(which: Which) -> None:
    if which.reason in ONE_BY_ONE:
        raise CommandError(
            f"{which.reason} was a person's own word: it is lifted for one address at a time, by naming it"
        )
    if not (which.domain or which.mailbox_provider or which.source or which.since or which.until or which.match):
        raise CommandError("say which ones: an address, or --domain, --mailbox-provider, --source, --since, --match")


def _words(which: Which) -> str:
    """What was asked for, for the audit log: a hash in place of an address."""
    values = {name: value for name, value in asdict(which).items() if value is not None and name != "states"}
    if which.address_hash is not None:
        values["address_hash"] = _short(which.address_hash)
    return " ".join(f"{name}={value}" for name, value in values.items())


def _suppressions(count: int) -> str:
    return f"{count} suppression{'' if count == 1 else 's'}"


def _print(found: list[Suppressed], *, as_json: bool) -> None:
    from receiver.cli.output import json_line, table

    if as_json:
        for one in found:
            json_line(_as_json(one))
        return
    head = ("address", "reason", "scope", "state", "since", "last", "until", "source", "note")
    rows = (
        (
            _who(one),
            one.reason,
            _scope(one),
            one.state,
            one.since,
            one.last_at,
            _until(one),
            one.source,
            one.note or None,
        )
        for one in found
    )
    table(head, rows, empty="no suppressions")


def _show(one: Suppressed) -> None:
    from receiver.cli.lines import say
    from receiver.cli.output import pairs, show

    say("")
    values: dict[str, object] = {
        "state": one.state,
        "scope": _scope(one),
        "since": one.since,
        "last": one.last_at,
        "until": _until(one),
        "source": one.source,
        "event": one.event_id,
        "incident": one.incident,
        "note": one.note or None,
        "lifted": one.lifted_at,
        "by": one.lifted_by,
        "because": one.lift_reason,
    }
    show(pairs({name: value for name, value in values.items() if value is not None}, title=one.reason))


def _who(one: Suppressed) -> str:
    at = f" (@{one.domain})" if one.domain and not one.address else ""
    return one.address or f"{_short(one.address_hash)}{at}"


def _short(address_hash: bytes) -> str:
    return address_hash.hex()[:12]


def _scope(one: Suppressed) -> str:
    return " ".join(word for word in (one.scope, one.brand, one.topic) if word)


def _until(one: Suppressed) -> object:
    return min((at for at in (one.expires_at, one.release_at) if at is not None), default=None)


def _as_json(one: Suppressed) -> dict[str, Any]:
    return asdict(one) | {"address_hash": one.address_hash.hex()}
