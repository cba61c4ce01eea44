"""What `receiver contacts show` says of a person: what may be sent, why not, and what happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import asyncpg

from receiver.contacts.holders import KEEP_LISTS
from receiver.event import EventType
from receiver.sending.accounts import TRANSPORTS
from receiver.sending.provider_lists import lists_of
from receiver.store import consent
from receiver.store.address_keys import check_address_key
from receiver.store.consent import Statement
from receiver.vault import Vault
from tests.cli import Receiver
from tests.log_events import store
from tests.service import SECRET_KEY, play, running
from tests.test_sending_rest import KEYS

ANNA: Final = "anna@example.com"
VAULT: Final = Vault(SECRET_KEY)
HOSTILE: Final = "\x1b]0;owned\x07[bold]x[/bold]"


async def suppress(sql: asyncpg.Connection, address: str, event: asyncpg.Record | None, **more: str) -> None:
    await sql.execute(
        "INSERT INTO suppressions (address_hash, reason, scope, since, last_at, source, event_id, note)"
        " VALUES ($1, 'hard_bounce', 'all', $2, $2, 'shop', $3, $4)",
        VAULT.address_hash(address), event["occurred_at"] if event else datetime(2026, 1, 2, tzinfo=UTC),
        event["id"] if event else None, more.get("note", ""),
    )  # fmt: skip


async def test_a_person(database: str, sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path) -> None:
    """one answer tells of the contact, consent, what may be sent, why not down to the raw object, and of all providers
    under present and former addresses, the newest first"""
    shop, other = play("sendgrid", tmp_path, name="shop"), play("postmark", tmp_path, name="other")
    now = datetime.now(UTC).replace(microsecond=0)
    async with running(database, shop, other) as service:
        for post in shop.posts(EventType.BOUNCED, ANNA, at=now - timedelta(hours=1)):
            assert (await service.post("shop", post)).status_code == 200
        for post in other.posts(EventType.DELIVERED, "anna@old.example", at=now - timedelta(days=3)):
            assert (await service.post("other", post)).status_code == 200
        bounced, _ = await service.events()
    await suppress(sql, ANNA, bounced)
    await sql.execute(
        "INSERT INTO contacts (address, address_hash, name) VALUES ($1, $2, $3)",
        ANNA,
        VAULT.address_hash(ANNA),
        HOSTILE,
    )
    await sql.execute(
        "INSERT INTO contact_addresses (contact_id, address, address_hash, who) SELECT id, $1, $2, 'me' FROM contacts",
        "anna@old.example", VAULT.address_hash("anna@old.example"),
    )  # fmt: skip
    await sql.execute("INSERT INTO topics (name, title) VALUES ('news', 'News')")
    statement = Statement(
        address_hash=VAULT.address_hash(ANNA), address=ANNA, action="subscribed", at=now - timedelta(days=9),
        source="page", method="confirmation", topic="news", wording=HOSTILE, client_ip=IPv4Address("192.0.2.1"),
    )  # fmt: skip
    await consent.record(sql, [statement])
    await sql.execute(
        "INSERT INTO sends (key, recipient, template, stream, handler) VALUES ('k', $1, 'welcome', 'marketing', 'h')",
        ANNA,
    )

    (shown,) = (await receiver("contacts", "show", "Anna <Anna@EXAMPLE.com>", "--json", "--raw")).rows
    assert shown["contact"]["name"] == HOSTILE
    assert [one["address"] for one in shown["addresses_before"]] == ["anna@old.example"]
    assert shown["engagement"] == {"delivered": 1, "opened": 0, "clicked": 0, "bounced": 1}
    assert [(one["topic"], one["sendable"], one["reason"]) for one in shown["sendable"]] == [
        (None, False, "hard_bounce"), (None, False, "hard_bounce"), ("news", False, "hard_bounce"),
    ]  # fmt: skip
    assert [(one["topic"], one["state"]) for one in shown["subscriptions"]] == [("news", "subscribed")]
    (why,) = shown["suppressions"]
    assert (why["event_id"], why["event_type"], why["source"]) == (str(bounced["id"]), "bounced", "shop")
    assert (why["bounce_category"], why["diagnostic"]) == (bounced["bounce_category"], bounced["diagnostic"])
    assert why["raw"]["email"] == ANNA
    happened = [(one["what"], one["source"]) for one in shown["timeline"]]
    assert happened == [
        ("send queued", "h"), ("address changed", "me"), ("bounced", "shop"), ("suppressed", "shop"),
        ("delivered", "other"), ("consent: subscribed", "page"),
    ]  # fmt: skip
    assert (await receiver("contacts", "show", "anna@old.example", "--json", "--raw")).rows == [shown]

    page = await receiver("contacts", "show", ANNA, "--limit", "1")
    assert "\x1b" not in page.out
    assert "[bold]x[/bold]" in page.out
    assert ("sg_event_id" in page.out, "sg_event_id" in (await receiver("contacts", "show", ANNA, "--raw")).out) == (
        False, True,
    )  # fmt: skip


async def test_an_address_nobody_knows(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """an address without a contact is told as that, with the suppressions of its hash; what is no address is refused"""
    assert "nobody knows this address" in (await receiver("contacts", "show", ANNA)).out
    await suppress(sql, ANNA, None, note="asked by phone")
    gone = await receiver("contacts", "show", ANNA)
    assert "deleted or never a contact, but suppressed since 2026-01-02" in gone.out
    assert "asked by phone" in gone.out
    await sql.execute("INSERT INTO erasures (address_hash, who) VALUES ($1, 'me')", VAULT.address_hash(ANNA))
    assert "erased on" in (await receiver("contacts", "show", ANNA)).out
    wrong = await receiver("contacts", "show", "no address")
    assert (wrong.code, wrong.out) == (1, "")
    assert database


async def test_who_may_still_hold_it_back(sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path) -> None:
    """what was lifted here may still be held by the provider it came from, until it is taken off there, or delivers"""
    (tmp_path / "receiver.toml").write_text(
        '[accounts.main]\ntransport = "postmark"\nfrom = "a@shop.example"\nserver_token = "t"\n'
        '[sources.shop]\nprovider = "sendgrid"\nwebhook_url_token = "x"\n'
    )

    async def held() -> list[tuple[str, str | None]]:
        (shown,) = (await receiver("contacts", "show", ANNA, "--json")).rows
        return [(one["provider"], one["account"]) for one in shown["perhaps_held_by"]]

    async def pushed(action: consent.Action) -> None:
        said = Statement(
            address_hash=VAULT.address_hash(ANNA), address=ANNA, action=action, at=datetime.now(UTC),
            source="sync:main", method="push",
        )  # fmt: skip
        await consent.record(sql, [said])

    async def lift() -> None:
        assert (
            await receiver("suppressions", "lift", ANNA, "--reason", "hard_bounce", "--why", "it was them")
        ).code == 0

    await suppress(sql, ANNA, None)
    await sql.execute("UPDATE suppressions SET source = 'import:postmark'")
    assert await held() == []
    await lift()
    assert await held() == [("postmark", "main")]
    assert "`receiver suppressions sync main` shows it" in (await receiver("contacts", "show", ANNA)).out
    await pushed("lifted")
    assert await held() == []
    await pushed("suppressed")
    assert await held() == [("postmark", "main")]
    await store(sql, type="delivered", provider="postmark", recipient=ANNA)
    assert await held() == []

    await sql.execute("UPDATE suppressions SET source = 'shop'")
    assert await held() == [("sendgrid", None)]
    assert "has no account of it" in (await receiver("contacts", "show", ANNA)).out
    await sql.execute("UPDATE suppressions SET last_at = now() + interval '1 minute'")
    assert await held() == []
    await sql.execute("UPDATE suppressions SET reason = 'manual'")
    await receiver("suppressions", "lift", ANNA, "--reason", "manual", "--why", "our own")
    assert await held() == []


def test_which_providers_keep_lists() -> None:
    """those that may hold somebody back are those whose lists `suppressions sync` can ask for"""
    found = set()
    for name in TRANSPORTS:
        module = import_module(f"receiver.sending.{name}")
        table = {"transport": name, "from": "a@shop.example", **KEYS.get(name, {"host": "smtp.example"})}
        found |= {name} if lists_of(module.Settings.model_validate(table)) is not None else set()
    assert found == KEEP_LISTS


async def test_another_key(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """with another address key nobody is said to be free of suppressions: the command refuses"""
    await check_address_key(sql, "another")
    refused = await receiver("contacts", "show", ANNA)
    assert (refused.code, refused.out) == (1, "")
    assert "address_key" in refused.err
