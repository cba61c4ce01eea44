"""`receiver policy preview`: what another policy would change, beside what the handlers have really done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from receiver.contacts.handling import Contacts
from receiver.store.rows import select_list, to_event
from receiver.vault import Vault
from tests.cli import Receiver
from tests.log_events import store_rows
from tests.service import SECRET_KEY

VAULT: Final = Vault(SECRET_KEY)
NOW: Final = datetime.now(UTC)
GONE: Final = {"bounce_category": "hard", "bounce_class": "invalid_recipient"}
FULL: Final = {"bounce_category": "soft", "bounce_class": "mailbox_full"}
NETWORK: Final = {"bounce_category": "soft", "bounce_class": "network"}


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(database)
    try:
        yield made
    finally:
        await made.close()


def bounced(name: str, *days_ago: float, **columns: Any) -> list[dict[str, Any]]:
    return [
        {
            "occurred_at": NOW - timedelta(days=ago),
            "type": "bounced",
            "recipient": f"{name}@one.test",
            "message_id": f"{name}-{ago}",
            **columns,
        }
        for ago in days_ago
    ]


async def handled(connection: asyncpg.Connection, *rows: dict[str, Any]) -> None:
    """Stored, and told to the handlers."""
    await store_rows(connection, rows)
    events = [to_event(row) for row in await connection.fetch(f"SELECT {select_list('e')} FROM events e")]
    async with connection.transaction():
        contacts = Contacts(connection, VAULT)
        await contacts.record(events)
        await contacts.heed(events)


async def everybody(connection: asyncpg.Connection) -> None:
    await handled(
        connection,
        *bounced("gone", 9, **GONE),
        *bounced("full", 20, 18, 16, 14, 12, **FULL),
        *bounced("full", 20, **FULL),  # the same message again
        *bounced("twice", 9, 6, **FULL),
        *bounced("alive", 9, 6, **FULL),
        *bounced("alive", 5, type="delivered"),
        *bounced("lifted", 9, **GONE),
        *bounced("before", 50, **GONE),
        *bounced("before", 2, **NETWORK),
        *bounced("test", 2, is_test=True, **NETWORK),
    )
    await Contacts(connection, VAULT).lift("lifted@one.test", reason="hard_bounce", why="it is back")


async def previewed(receiver: Receiver, directory: Path, policy: str) -> dict[tuple[str, str, str], set[str]]:
    (directory / "changed.toml").write_text(f"[policy]\n{policy}\n")
    ended = await receiver("policy", "preview", "--config", "changed.toml", "--since", "30d", "--json")
    assert ended.code == 0, ended.err
    found = {(row["kind"], row["reason"], row["rule"]): row for row in ended.rows}
    assert all(row["addresses"] == len(row["sample"]) for row in found.values())
    return {key: {address.partition("@")[0] for address in row["sample"]} for key, row in found.items()}


CHANGES: Final[list[tuple[str, dict[tuple[str, str, str], set[str]]]]] = [
    ("", {}),
    ("invalid_recipient = 'never'", {("released", "hard_bounce", "invalid_recipient"): {"gone"}}),
    ("mailbox_full = 'never'", {("released", "soft_bounce", "mailbox_full"): {"full"}}),
    ("mailbox_full = {messages = 2, over = '1d'}", {("suppressed", "soft_bounce", "mailbox_full"): {"twice"}}),
    ("mailbox_full = {expires = ['1d']}", {("released", "soft_bounce", "mailbox_full"): {"full"}}),
    ("network = 'at_once'", {}),  # `before` is suppressed already
    (
        "mailbox_full = 'at_once'",
        {
            ("suppressed", "hard_bounce", "mailbox_full"): {"twice", "alive"},
            ("changed", "hard_bounce", "mailbox_full"): {"full"},
        },
    ),
]


async def test_what_a_changed_policy_would_do(
    connection: asyncpg.Connection, receiver: Receiver, tmp_path: Path
) -> None:
    """the policy in force changes nothing; another one names those it would suppress, release or suppress otherwise"""
    await everybody(connection)
    before = await connection.fetch("SELECT * FROM suppressions ORDER BY address_hash, reason")
    assert len(before) == 4
    for policy, expected in CHANGES:
        assert await previewed(receiver, tmp_path, policy) == expected, policy
    assert await connection.fetch("SELECT * FROM suppressions ORDER BY address_hash, reason") == before
    (tmp_path / "changed.toml").write_text("[policy]\ninvalid_recipient = 'never'\n")
    shown = await receiver("policy", "preview", "--config", "changed.toml")
    assert "gone@one.test" in shown.out
    assert "of 6 addresses with a bounce: 0 suppressed, 1 released, 0 changed" in shown.err


async def test_a_streak_from_before(connection: asyncpg.Connection, receiver: Receiver, tmp_path: Path) -> None:
    """a repeated bounce that began before the time in question still counts as the handlers count it"""
    await handled(connection, *bounced("full", 39, 38, 36, 29, 20, **FULL))
    assert await previewed(receiver, tmp_path, "") == {}


async def test_history_without_handlers(
    connection: asyncpg.Connection, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """events that no handler has seen show as addresses to be suppressed, in any number of batches"""
    monkeypatch.setattr("receiver.contacts.previewing.BATCH", 2)
    await store_rows(connection, [row for n in range(5) for row in bounced(f"gone{n}", 9, 8, **GONE)])
    found = await previewed(receiver, tmp_path, "")
    assert found == {("suppressed", "hard_bounce", "invalid_recipient"): {f"gone{n}" for n in range(5)}}


async def test_lifting_repeated_bounces(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """after a lift bounces in a row are counted from the beginning"""
    await handled(connection, *bounced("full", 20, 18, 16, 14, 12, **FULL))
    assert await connection.fetchval("SELECT soft_streak FROM contacts") == 5
    ended = await receiver(
        *("suppressions", "lift", "--reason", "soft_bounce", "--domain", "one.test", "--why", "x", "--yes")
    )
    assert ended.code == 0
    assert await connection.fetchval("SELECT soft_streak FROM contacts") == 0
    await handled(connection, *bounced("full", -1, **FULL))
    assert await connection.fetchval("SELECT soft_streak FROM contacts") == 1
    assert await connection.fetchval("SELECT active FROM suppressions") is False
