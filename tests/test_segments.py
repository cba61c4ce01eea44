"""Segments: whom each condition finds, and the commands."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from receiver.contacts import segments
from receiver.contacts.filters import parse_filter, read_filter, to_json
from receiver.store import segments as store
from receiver.store.consent import Action, Statement, record
from tests.cli import Receiver
from tests.log_events import store_rows

NOW: Final = datetime.now(UTC)
HASHES: Final = {name: name.encode() for name in ("ann", "ben", "cleo", "dan", "eve")}


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


# Ann reads and clicks; Ben only gets mail; Cleo's mail client loads pictures by itself; Dan bounced; Eve is unknown.
CONTACTS: Final[dict[str, dict[str, Any]]] = {
    "ann": {
        "name": "Ann Lee",
        "locale": "de-AT",
        "tags": ["vip", "beta"],
        "attributes": {"plan": "pro", "seats": 12, "address": {"city": "Graz"}, "a.b": 1, "likes": ["tea", 7]},
        "last_opened_at": ago(3),
        "last_clicked_at": ago(3),
    },
    "ben": {
        "attributes": {"plan": "free", "seats": "12", "renews": "2026-03-31", "address": "Graz"},
        "last_opened_at": ago(200),
    },
    "cleo": {"tags": ["vip"], "attributes": {"seats": 3, "renews": "soon", "plan": None}, "prefetched_at": ago(2)},
    "dan": {"external_id": "d-4", "soft_streak": 4, "attributes": {"renews": "2026-05-01T10:00:00Z"}},
    "eve": {},
}
EVENTS: Final[list[dict[str, Any]]] = [
    {
        "recipient": "ann",
        "type": "clicked",
        "message_id": "m1",
        "tags": ["trial"],
        "url": "https://x.test/a?b",
        "days": 3,
    },
    {"recipient": "ann", "type": "opened", "message_id": "m1", "days": 3, "actor": "human", "metadata": '{"order": 7}'},
    {"recipient": "ann", "type": "opened", "message_id": "m1", "days": 2, "actor": "proxy"},
    {"recipient": "ann", "type": "opened", "message_id": "m2", "days": 40, "actor": "human", "campaign": "spring"},
    {"recipient": "ben", "type": "delivered", "message_id": "m1", "days": 3},
    {"recipient": "ben", "type": "clicked", "message_id": "m1", "days": 3, "actor": "machine"},
    {"recipient": "ben", "type": "clicked", "message_id": "m2", "days": 3, "is_test": True},
    {"recipient": "cleo", "type": "opened", "message_id": "m1", "days": 2, "actor": "machine"},
    {"recipient": "cleo", "type": "clicked", "message_id": "m3", "days": 3, "attribution": "unverified"},
    {"recipient": "dan", "type": "bounced", "message_id": "m1", "days": 3, "bounce_class": "mailbox_full"},
    {"recipient": "dan", "type": "bounced", "message_id": "m1", "days": 1, "echo": True},
]


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def people(sql: asyncpg.Connection) -> asyncpg.Connection:
    """The contacts and events above, some subscriptions and suppressions."""
    for name, columns in CONTACTS.items():
        row = {"address": f"{name}@one.test", "address_hash": HASHES[name], "tags": [], "attributes": {}} | columns
        row["attributes"] = json.dumps(row["attributes"])
        await sql.copy_records_to_table("contacts", columns=list(row), records=[tuple(row.values())])
    await store_rows(sql, [_event(event) for event in EVENTS])
    await sql.execute("INSERT INTO topics (name, title) VALUES ('news', 'News')")
    said: list[tuple[str, Action, int]] = [
        ("ann", "subscribed", 9),
        ("ben", "subscribed", 90),
        ("cleo", "requested", 9),
        ("dan", "unsubscribed", 9),
    ]
    await record(sql, [_statement(*one) for one in said])
    await sql.execute(
        """
        INSERT INTO suppressions (address_hash, reason, scope, since, last_at, source, expires_at, lifted_at) VALUES
            ($1, 'complaint', 'marketing', now(), now(), 'x', NULL, NULL),
            ($2, 'soft_bounce', 'all', now(), now(), 'x', now() - interval '1 day', NULL),
            ($3, 'hard_bounce', 'all', now(), now(), 'x', NULL, now())
        """,
        *(HASHES[name] for name in ("ben", "dan", "eve")),
    )
    return sql


def _statement(name: str, action: Action, days: int) -> Statement:
    return Statement(
        address_hash=HASHES[name], address=None, action=action, at=ago(days), source="x", method="x", topic="news"
    )


def _event(event: dict[str, Any]) -> dict[str, Any]:
    usual = {"tags": [], "metadata": "{}", "is_test": False, "echo": False}
    row = usual | {name: value for name, value in event.items() if name != "days"}
    for name in ("url", "actor", "campaign", "attribution", "bounce_class"):
        row.setdefault(name, None)
    return row | {"recipient": f"{event['recipient']}@one.test", "occurred_at": ago(event["days"])}


async def members(sql: asyncpg.Connection, filter_: object) -> str:
    rows = await segments.page(sql, read_filter(filter_), NOW)
    return " ".join(row["address"].partition("@")[0] for row in rows)


CASES: Final[list[tuple[dict[str, Any], str]]] = [
    ({"tag": "vip"}, "ann cleo"),
    ({"tag": ["beta", "none"]}, "ann"),
    ({"not": {"tag": "vip"}}, "ben dan eve"),
    ({"attribute": "plan", "equals": "pro"}, "ann"),
    ({"not": {"attribute": "plan", "equals": "pro"}}, "ben cleo dan eve"),
    ({"attribute": "plan", "in": ["pro", "free"]}, "ann ben"),
    ({"attribute": "plan", "exists": True}, "ann ben"),
    ({"attribute": "plan", "exists": False}, "cleo dan eve"),
    ({"attribute": "address.city", "equals": "Graz"}, "ann"),
    ({"attribute": ["a.b"], "equals": 1.0}, "ann"),
    ({"attribute": "likes", "has": "tea"}, "ann"),
    ({"attribute": "seats", "at_least": 3, "below": 12}, "cleo"),
    ({"attribute": "seats", "above": 3}, "ann"),
    ({"not": {"attribute": "seats", "above": 3}}, "ben cleo dan eve"),
    ({"attribute": "plan", "contains": "RO"}, "ann"),
    ({"attribute": "renews", "since": "2026-04-01"}, "dan"),
    ({"attribute": "renews", "until": "2026-04-01"}, "ben"),
    ({"field": "name", "starts_with": "ANN"}, "ann"),
    ({"field": "locale", "ends_with": "-at"}, "ann"),
    ({"not": {"field": "locale", "equals": "de-AT"}}, "ben cleo dan eve"),
    ({"field": "address", "equals": "ANN@One.test"}, "ann"),
    ({"field": "domain", "in": ["ONE.test"]}, "ann ben cleo dan eve"),
    ({"field": "soft_streak", "at_least": 4}, "dan"),
    ({"field": "external_id", "exists": True}, "dan"),
    ({"field": "last_clicked_at", "since": "30d"}, "ann"),
    ({"topic": "news"}, "ann ben"),
    ({"topic": "news", "since": "30d"}, "ann"),
    ({"topic": "news", "state": ["pending", "unsubscribed"]}, "cleo dan"),
    ({"topic": "news", "state": "none"}, "eve"),
    ({"suppressed": True}, "ben"),
    ({"suppressed": ["hard_bounce", "soft_bounce"]}, ""),
    ({"sendable": "news"}, "ann"),
    ({"event": "clicked", "tag": "trial", "since": "30d"}, "ann"),
    ({"event": "clicked", "tag": "trial", "since": "2d"}, ""),
    ({"event": "clicked"}, "ann"),
    ({"event": "clicked", "machines": True}, "ann ben"),
    ({"event": "clicked", "url": "x.test/a?"}, "ann"),
    ({"event": "opened", "metadata": {"order": 7}}, "ann"),
    ({"event": "opened", "campaign": "spring", "until": "30d"}, "ann"),
    ({"event": "opened", "at_least": 2}, "ann"),
    ({"event": "opened", "at_least": 2, "since": "30d"}, ""),
    ({"event": ["bounced", "complained"], "bounce_class": "mailbox_full"}, "dan"),
    ({"not": {"event": "delivered"}}, "ann cleo dan eve"),
    # Of Cleo it is not known whether she opens: she is in neither, unless machines count.
    ({"event": "opened", "since": "30d"}, "ann"),
    ({"not": {"event": "opened", "since": "30d"}}, "ben dan eve"),
    ({"not": {"event": "opened", "since": "1d"}}, "ann ben cleo dan eve"),
    ({"not": {"event": "opened", "since": "30d", "machines": True}}, "ben dan eve"),
    ({"not": {"any": [{"event": "opened", "since": "30d"}, {"tag": "vip"}]}}, "ben dan eve"),
    ({"any": [{"not": {"event": "opened"}}, {"tag": "vip"}]}, "ann ben cleo dan eve"),
    ({"not": {"not": {"event": "opened"}}}, "ann"),
    ({"field": "last_opened_at", "since": "30d"}, "ann"),
    ({"not": {"field": "last_opened_at", "since": "30d"}}, "ben dan eve"),
    ({"field": "last_opened_at", "until": "30d"}, "ben"),
    ({"field": "last_opened_at", "exists": False}, "dan eve"),
    ({"all": [{"topic": "news"}, {"not": {"suppressed": True}}, {"any": [{"tag": "vip"}, {"tag": "x"}]}]}, "ann"),
]


async def test_a_suppression_that_a_bad_day_lets_go(people: asyncpg.Connection) -> None:
    """a hard bounce counts until every bad day in which it lies lets it go, as for sendable()"""
    await people.execute(
        "UPDATE suppressions SET lifted_at = NULL, mailbox_provider = 'google' WHERE reason = 'hard_bounce'"
    )
    await people.execute(
        "INSERT INTO bounce_incidents (mailbox_provider, began_at, release_at, hard, attempted, baseline, decision)"
        " VALUES ('google', $1, $2, 9, 10, 0.01, 'released')",
        *(ago(1), NOW),
    )
    assert await members(people, {"suppressed": True}) == "ben"
    await people.execute(
        "INSERT INTO bounce_incidents (mailbox_provider, began_at, ended_at, hard, attempted, baseline, decision)"
        " VALUES ('google', $1, $2, 9, 10, 0.01, 'confirmed')",
        *(ago(2), ago(-1)),
    )
    assert await members(people, {"suppressed": True}) == "ben eve"


async def test_what_each_condition_means(people: asyncpg.Connection) -> None:
    """each condition finds the contacts that it names, and its count is theirs"""
    found = {json.dumps(filter_): await members(people, filter_) for filter_, _ in CASES}
    assert found == {json.dumps(filter_): names for filter_, names in CASES}
    for filter_, names in CASES:
        assert await segments.count(people, read_filter(filter_), NOW) == len(names.split())
        assert parse_filter(to_json(read_filter(filter_))) == read_filter(filter_)


async def test_a_million_members_come_in_pages(people: asyncpg.Connection) -> None:
    """pages by id give every member once, and so does the stream of all of them"""
    everybody = read_filter({"not": {"tag": "nobody"}})
    found, after = list[str](), 0
    while rows := await segments.page(people, everybody, NOW, after=after, limit=2):
        found += [row["address"] for row in rows]
        after = rows[-1]["id"]
    assert found == [f"{name}@one.test" for name in CONTACTS]
    async with people.transaction():
        assert sorted([row["address"] async for row in segments.members(people, everybody, NOW)]) == sorted(found)


async def test_a_question_that_takes_too_long_is_given_up(people: asyncpg.Connection) -> None:
    """a slow preview ends in an error of its own, and nothing can be changed during one"""
    with pytest.raises(store.TooSlow, match=r"longer than 0\.05 s"):
        async with store.looking(people, timedelta(milliseconds=50)):
            await store.count(people, "pg_sleep(30) IS NOT NULL", ())
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        async with store.looking(people):
            await people.execute("DELETE FROM contacts")


async def test_engagement_counts_messages(people: asyncpg.Connection) -> None:
    """contact_engagement counts each message once, and nothing that machines did, repeats, tests, or is unverified"""
    rows = await people.fetch("SELECT * FROM contact_engagement ORDER BY contact_id")
    assert [tuple(row)[1:] for row in rows] == [
        ("ann@one.test", 0, 2, 1, 0),
        ("ben@one.test", 1, 0, 0, 0),
        ("cleo@one.test", 0, 0, 0, 0),
        ("dan@one.test", 0, 0, 0, 1),
        ("eve@one.test", 0, 0, 0, 0),
    ]
    await people.execute("SET enable_seqscan = off")
    plan = await people.fetch("EXPLAIN SELECT * FROM contact_engagement WHERE address = 'ann@one.test'")
    assert any("recipient_occurred_at_idx" in row[0] and "Index Scan" in row[0] for row in plan), plan


async def test_the_commands(receiver: Receiver, people: asyncpg.Connection, tmp_path: Path) -> None:
    """a filter is tried from a file, stored, listed, shown as it can be stored again, used by name, and deleted"""
    filter_ = tmp_path / "vip.json"
    filter_.write_text('{"all": [{"tag": "vip"}, {"topic": "news"}]}')
    tried = await receiver("segments", "preview", "./vip.json", "--json")
    assert [(row["address"], row["attributes"]["plan"]) for row in tried.rows] == [("ann@one.test", "pro")]
    saved = await receiver("segments", "save", "vip", "vip.json", "--title", "Good friends")
    assert saved.out == "stored vip: tagged vip, and subscribed to news\n"
    filter_.write_text('{"tag": "vip"}')
    assert (await receiver("segments", "save", "vip", "vip.json")).out == "replaced vip: tagged vip\n"
    listed = (await receiver("segments", "--json")).rows
    assert [(row["name"], row["title"], row["words"]) for row in listed] == [("vip", "Good friends", "tagged vip")]
    assert (await receiver("segments", "show", "vip", "--json")).out == '{"tag":["vip"]}\n'
    assert (await receiver("segments", "preview", "vip", "--count")).out == "2 contacts\n"
    shown = await receiver("segments", "preview", "vip", "--limit", "1")
    assert ("ann@one.test" in shown.out, "cleo@one.test" in shown.out) == (True, False)
    assert "1 of 2 contacts" in shown.err
    assert (await receiver("segments", "delete", "vip")).code == 1
    assert (await receiver("segments", "delete", "vip", "--yes")).out == "deleted vip\n"
    assert [tuple(row) for row in await people.fetch("SELECT action, subject FROM audit_log ORDER BY id")] == [
        ("save", "segment vip"),
        ("save", "segment vip"),
        ("delete", "segment vip"),
    ]


async def test_commands_that_cannot_be(receiver: Receiver, people: asyncpg.Connection, tmp_path: Path) -> None:
    """mistakes end in a message that says what to do: a wrong filter, a wrong name, an unknown segment, no such file"""
    (tmp_path / "wrong.json").write_text('{"all": [{"tag": "x"}, {"tagg": "x"}]}')
    (tmp_path / "right.json").write_text('{"tag": "x"}')
    await receiver("segments", "save", "vip", "right.json")
    for arguments, message in (
        (("save", "x", "wrong.json"), "in wrong.json cannot be used:\nall[1] is a condition of no known kind"),
        (("save", "A b", "right.json"), "a segment's name has at most 63 small letters"),
        (("preview", "vipp"), "there is no segment vipp (did you mean vip?); a file of that name is ./vipp"),
        (("show", "vi"), "there is no segment vi (did you mean vip?)"),
        (("preview", "./none.json"), "No such file or directory: none.json"),
    ):  # fmt: skip
        ended = await receiver("segments", *arguments)
        assert ended.code == 1
        assert message in ended.err
        assert await people.fetchval("SELECT count(*) FROM segments") == 1
