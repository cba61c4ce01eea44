"""`receiver suppressions`: who must not be mailed, and why; adding and lifting by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import pytest

from receiver.store.consent import sendable
from receiver.vault import Vault
from tests.cli import Receiver
from tests.log_events import store_rows
from tests.service import SECRET_KEY
from tests.waiting import until

VAULT: Final = Vault(SECRET_KEY)
DAY: Final = datetime.now(UTC) - timedelta(days=3)
WAITING: Final = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(database)
    try:
        yield made
    finally:
        await made.close()


async def suppressed(connection: asyncpg.Connection, address: str, **more: Any) -> None:
    """Suppressed by an event, as a handler does it; `said`: its diagnostic. A contact, unless `contact` is False."""
    hashed = VAULT.address_hash(address)
    values = {
        "reason": "hard_bounce",
        "scope": "all",
        "at": DAY,
        "said": "550 5.1.1 no such user",
        "until": None,
    } | more
    (event,) = await _event(connection, address, values)
    await connection.execute(
        "INSERT INTO suppressions (address_hash, reason, scope, since, last_at, source, event_id, recipient_domain,"
        " mailbox_provider, expires_at) VALUES ($1, $2, $3, $4, $4, 'shop', $5, $6, 'google', $7)",
        *(hashed, values["reason"], values["scope"], values["at"], event, address.partition("@")[2], values["until"]),
    )
    if more.get("contact", True):
        statement = "INSERT INTO contacts (address, address_hash) VALUES ($1, $2) ON CONFLICT DO NOTHING"
        await connection.execute(statement, address, hashed)


async def _event(connection: asyncpg.Connection, address: str, values: dict[str, Any]) -> list[Any]:
    row = {"occurred_at": values["at"], "type": "bounced", "recipient": address, "diagnostic": values["said"]}
    await store_rows(connection, [row])
    rows = await connection.fetch("SELECT id FROM events WHERE recipient = $1 ORDER BY position DESC LIMIT 1", address)
    return [row["id"] for row in rows]


async def may_be_mailed(connection: asyncpg.Connection, address: str) -> bool:
    row = (await sendable(connection, [VAULT.address_hash(address)], None, "marketing"))[0]
    return bool(row["sendable"])


LISTED: Final = [
    ((), {"ada", "bob", "cleo", "dan"}),
    (("--reason", "complaint"), {"bob"}),
    (("--domain", "GMAIL.com"), {"ada", "bob", "dan"}),
    (("--mailbox-provider", "yahoo"), set()),
    (("--source", "shop", "--since", "2d"), {"cleo"}),
    (("--until", "2d"), {"ada", "bob", "dan"}),
    (("--state", "expired", "--state", "lifted"), {"dan", "eve"}),
    (("--match", "5.1.1 NO such"), {"ada", "bob", "dan"}),
    (("--match", "100%"), {"cleo"}),
]


async def test_listing(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """each filter finds what it names; an address that no contact has is shown as its hash and domain"""
    await suppressed(connection, "ada@gmail.com", contact=False)
    await suppressed(connection, "bob@gmail.com", reason="complaint", scope="marketing")
    await suppressed(connection, "cleo@one.test", at=DAY + timedelta(days=2), said="mailbox 100% full")
    await suppressed(connection, "dan@gmail.com", until=DAY)
    await suppressed(connection, "eve@gmail.com")
    await connection.execute(
        "UPDATE suppressions SET lifted_at = now() WHERE address_hash = $1", VAULT.address_hash("eve@gmail.com")
    )
    short = VAULT.address_hash("ada@gmail.com").hex()[:12]
    for options, expected in LISTED:
        rows = (await receiver("suppressions", "list", "--json", *options)).rows
        assert {(row["address"] or "ada@").partition("@")[0] for row in rows} == expected, options
    shown = (await receiver("suppressions")).out
    assert f"{short} (@gmail.com)" in shown
    assert "ada" not in shown
    assert (await receiver("suppressions", "list", "--domain", "no domain")).code == 2


async def test_adding_and_lifting_one(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """an address that is suppressed by hand is so at once, and after a lift again; all of it is on record"""
    assert (await receiver("suppressions", "add", "Ada@Example.com", "--note", "asked on the phone")).code == 0
    assert not await may_be_mailed(connection, "ada@example.com")
    shown = await receiver("suppressions", "show", "ada@EXAMPLE.com")
    assert "marketing: must not be sent: manual since" in shown.out
    assert "asked on the phone" in shown.out
    why = ("--reason", "manual", "--why", "changed her mind")
    assert (await receiver("suppressions", "lift", "ada@example.com", *why)).code == 0
    assert await may_be_mailed(connection, "ada@example.com")
    (row,) = (await receiver("suppressions", "show", "ada@example.com", "--json")).rows
    assert (row["state"], row["lift_reason"], bool(row["lifted_by"])) == ("lifted", "changed her mind", True)
    again = await receiver("suppressions", "lift", "ada@example.com", *why)
    assert (again.code, "nothing to lift" in again.err) == (1, True)
    assert (await receiver("suppressions", "add", "ada@example.com", "--note", "and again")).code == 0
    assert not await may_be_mailed(connection, "ada@example.com")
    log = await connection.fetch("SELECT action, address, wording, source FROM consent_log ORDER BY id")
    assert [tuple(one) for one in log] == [
        ("suppressed", "ada@example.com", "asked on the phone", "cli"),
        ("lifted", None, "changed her mind", "cli"),
        ("suppressed", "ada@example.com", "and again", "cli"),
    ]
    audit = await connection.fetch("SELECT action, subject FROM audit_log")
    assert [one["action"] for one in audit] == ["suppress", "lift", "suppress"]
    assert "ada@" not in "".join(one["subject"] for one in audit)


async def test_a_complaint_by_hand_ends_marketing_alone(receiver: Receiver) -> None:
    """a complaint that came another way suppresses marketing mail, and no other"""
    assert (await receiver("suppressions", "add", "ada@example.com", "--reason", "complaint")).code == 0
    (row,) = (await receiver("suppressions", "--json")).rows
    assert (row["reason"], row["scope"]) == ("complaint", "marketing")
    assert (await receiver("suppressions", "add", "no address")).code == 1


async def test_lifting_many(
    connection: asyncpg.Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """what a bad day has suppressed is lifted in batches, chosen by time, domain and words; the rest stays"""
    at = datetime(2026, 11, 14, 12, tzinfo=UTC)
    for number in range(7):
        await suppressed(connection, f"living{number}@gmail.com", at=at + timedelta(minutes=number))
    await suppressed(connection, "before@gmail.com", at=at - timedelta(days=2))
    await suppressed(connection, "full@gmail.com", at=at, said="552 5.2.2 mailbox full")
    await suppressed(connection, "other@one.test", at=at)
    await suppressed(connection, "again@gmail.com", at=at)
    await connection.execute(
        "UPDATE suppressions SET last_at = now() WHERE address_hash = $1", VAULT.address_hash("again@gmail.com")
    )
    chosen = "--reason hard_bounce --domain gmail.com --since 2026-11-14 --until 2026-11-16"
    lift = ["suppressions", "lift", *chosen.split(), "--match", "550 5.1.1", "--why", "Gmail's bad day"]
    looked = await receiver(*lift, "--dry-run", "--json")
    assert {row["address"].partition("@")[0] for row in looked.rows} == {f"living{number}" for number in range(7)}
    assert "7 suppressions to be lifted" in looked.err
    assert (await receiver(*lift)).code == 1  # nobody to ask
    assert await connection.fetchval("SELECT count(*) FROM suppressions WHERE lifted_at IS NOT NULL") == 0

    monkeypatch.setattr("receiver.cli.suppressing.BATCH", 3)
    done = await receiver(*lift, "--yes")
    assert done.out.endswith("lifted 7 suppressions\n")
    states = await connection.fetch(
        "SELECT c.address, s.active FROM suppressions s JOIN contacts c USING (address_hash)"
    )
    assert {row["address"].partition("@")[0] for row in states if row["active"]} == {"before", "full", "other", "again"}
    assert await connection.fetchval("SELECT count(*) FROM consent_log WHERE action = 'lifted'") == 7
    (audit,) = await connection.fetch("SELECT subject FROM audit_log")
    assert audit["subject"].startswith("7 suppressions: reason=hard_bounce domain=gmail.com since=2026-11-14")


async def test_lifting_repeated_bounces_of_many(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """the lift and the count that begins anew are one, and wait for events about the same people"""
    await suppressed(connection, "full@gmail.com", reason="soft_bounce")
    await connection.execute(
        "INSERT INTO bounces (address_hash, message, bounce_class, at, source, event_id)"
        " SELECT address_hash, 'm', 'mailbox_full', $1, 's', gen_random_uuid() FROM contacts",
        DAY,
    )
    await connection.execute("UPDATE contacts SET soft_streak = 5")
    await connection.execute("ALTER TABLE contacts ADD CONSTRAINT not_yet CHECK (soft_streak > 0)")
    lift = ("suppressions", "lift", "--reason", "soft_bounce", "--domain", "gmail.com", "--why", "x", "--yes")
    assert (await receiver(*lift)).code != 0
    assert await connection.fetchval("SELECT active FROM suppressions")
    await connection.execute("ALTER TABLE contacts DROP CONSTRAINT not_yet")
    async with connection.transaction():
        await connection.execute("UPDATE contacts SET last_bounced_at = now()")
        lifting = asyncio.ensure_future(receiver(*lift))
        await until(lambda: connection.fetchval(WAITING))
        await connection.execute("SELECT FROM suppressions FOR UPDATE NOWAIT")
    assert (await lifting).code == 0
    assert await connection.fetchval("SELECT active OR soft_streak > 0 FROM suppressions, contacts") is False


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--reason", "hard_bounce", "--why", "x"), "say which ones"),
        (("--reason", "complaint", "--domain", "one.test", "--why", "x"), "one address at a time"),
        (("--reason", "hard_bounce", "--domain", "one.test", "--why", " "), "--why must not be empty"),
        (("--reason", "hard_bounce", "--domain", "one.test", "--why", "x", "--match", ""), "'--match': is empty"),
        (("--reason", "hard_bounce", "--domain", "one.test", "--why", "x", "--mailbox-provider", " "), "is empty"),
    ],
)
async def test_what_is_not_lifted(
    connection: asyncpg.Connection, receiver: Receiver, options: tuple[str, ...], why: str
) -> None:
    """nothing is lifted without saying which ones and why; an empty word is not "any"; no complaint in bulk"""
    await suppressed(connection, "ada@one.test")
    ended = await receiver("suppressions", "lift", *options, "--yes")
    assert ended.code in (1, 2)
    assert why in ended.err
    assert await connection.fetchval("SELECT count(*) FROM suppressions WHERE active") == 1


async def test_another_key_is_refused(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """with another secret key no address is hashed: nothing would be found, and what is added would be lost"""
    assert (await receiver("suppressions", "add", "ada@example.com")).code == 0
    monkeypatch.setenv("RECEIVER_SECRET_KEY", "another key, with characters enough 0123456789")
    ended = await receiver("suppressions", "show", "ada@example.com")
    assert ended.code == 1
    assert "address_key" in ended.err
