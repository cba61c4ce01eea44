"""One person, changed by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.cli import Receiver
from tests.people import VAULT, contact, people


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with people(database) as connection:
        yield connection


async def test_one_person_by_hand(receiver: Receiver, sql: asyncpg.Connection) -> None:
    """a person is added once, changed in what is given, tagged, unsubscribed and moved to a new address; all audited"""
    hash_ = VAULT.address_hash("ann@example.com")
    await sql.execute("INSERT INTO erasures (address_hash, who) VALUES ($1, 'x')", hash_)
    first = ("Ann@example.com", "--name", "Ann", "--external-id", "7", "--tag", "vip", "--set", "n=7", "--set", "t=07")
    added = await receiver("contacts", "add", *first)
    assert (added.code, "had been erased" in added.err) == (0, True)
    again = await receiver("contacts", "add", "ann@example.com")
    assert (again.code, "contacts edit" in again.err) == (1, True)
    assert (await receiver("contacts", "add", "bob@example.com")).code == 0
    taken = await receiver("contacts", "edit", "bob@example.com", "--external-id", "7")
    assert (taken.code, "external id" in taken.err) == (1, True)
    edit = ("contacts", "edit", "ann@example.com", "--locale", "de_AT", "--set", "n=true", "--unset", "t")
    assert (await receiver(*edit)).code == 0
    assert (await receiver("contacts", "tag", "ann@example.com", "new", "vip")).out == "tags: new, vip\n"
    assert (await receiver("contacts", "untag", "ann@example.com", "vip")).out == "tags: new\n"
    ann = await contact(sql, "ann@example.com")
    assert (ann["name"], ann["locale"], ann["attributes"], ann["tags"]) == ("Ann", "de-AT", {"n": True}, ["new"])
    assert (ann["display_address"], ann["external_id"]) == ("Ann@example.com", "7")
    left = ("contacts", "unsubscribe", "ann@example.com", "news", "--wording", "on the phone")
    assert (await receiver(*left)).code == 0
    assert (await sql.fetchval("SELECT wording FROM consent_log")) == "on the phone"
    assert (await receiver("contacts", "edit", "ann@example.com", "--address", "bob@example.com")).code == 1
    moved = await receiver("contacts", "edit", "ann@example.com", "--address", "ann@example.org", "--why", "new job")
    assert moved.code == 0, moved.err
    hashes = {VAULT.address_hash("ann@example.org"), hash_}
    states = await sql.fetch("SELECT address_hash, state FROM subscriptions WHERE topic = 'news'")
    assert {tuple(row) for row in states} == {(one, "unsubscribed") for one in hashes}
    assert await sql.fetchval("SELECT address FROM contact_addresses") == "ann@example.com"
    audited = [row["action"] for row in await sql.fetch("SELECT action FROM audit_log ORDER BY at")]
    kinds = ("add", "add", "edit", "tag", "untag", "unsubscribe", "edit")
    assert audited == [f"contacts {kind}" for kind in kinds]


async def test_an_earlier_address_speaks_for_the_person(
    receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """who leaves or complains by an earlier address, as a command or a file says, is left alone at the present one"""
    old, new = (VAULT.address_hash(one) for one in ("ann@example.com", "ann@example.org"))
    assert (await receiver("contacts", "add", "ann@example.com")).code == 0
    assert (await receiver("contacts", "edit", "ann@example.com", "--address", "ann@example.org")).code == 0
    assert (await receiver("contacts", "unsubscribe", "ann@example.com", "news")).code == 0
    assert (await receiver("suppressions", "add", "ann@example.com", "--reason", "complaint")).code == 0
    assert (await receiver("suppressions", "add", "ann@example.com", "--reason", "hard_bounce")).code == 0
    (tmp_path / "left.csv").write_text("email,reason\nann@example.com,unsubscribe\nann@example.com,complaint\n")
    done = await receiver("suppressions", "import", "left.csv", "--from", "csv", "--yes", "--json")
    assert (done.code, done.rows[0]["new"]) == (0, 1), done.err  # of the file's rows
    left = await sql.fetch("SELECT address_hash, state FROM subscriptions")
    assert {tuple(row) for row in left} == {(old, "unsubscribed"), (new, "unsubscribed")}
    held = await sql.fetch("SELECT address_hash, reason, recipient_domain FROM suppressions WHERE active")
    assert {tuple(row) for row in held} == {
        *((old, reason, "example.com") for reason in ("unsubscribe", "complaint", "hard_bounce")),
        *((new, reason, "example.org") for reason in ("unsubscribe", "complaint")),
    }
    said = await sql.fetch("SELECT DISTINCT address, source FROM consent_log WHERE action = 'complained'")
    assert {tuple(row) for row in said} == {
        (f"ann@example.{end}", source) for end in ("com", "org") for source in ("cli", "import:csv")
    }


async def test_wrong_words_about_one_person(receiver: Receiver) -> None:
    """what is no address, field, contact or topic is refused with what to do"""
    for arguments, code, says in (
        (("add", "ann"), 1, "@-sign"),
        (("add", "ann@example.com", "--locale", "no locale"), 2, "de-AT"),
        (("add", "ann@example.com", "--set", "x"), 2, "NAME=VALUE"),
        (("edit", "ann@example.com"), 2, "say what to change"),
        (("tag", "ann@example.com", "x"), 1, "contacts add"),
        (("unsubscribe", "ann@example.com", "nwes"), 1, "receiver topics add nwes"),
    ):
        ended = await receiver("contacts", *arguments)
        assert (ended.code, says in ended.err) == (code, True), ended.err
