"""Topics by the command line."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg

from receiver.store.consent import Action, Statement, record
from tests.cli import Receiver

AT = datetime(2026, 10, 1, tzinfo=UTC)


def said(number: int, action: Action, topic: str) -> Statement:
    return Statement(
        address_hash=bytes([number]) * 32, address=None, action=action, at=AT, topic=topic, source="cli", method="cli"
    )


async def test_a_topic_from_its_beginning_to_its_end(receiver: Receiver, database: str) -> None:
    """a topic is added once, changed in what is given alone, listed with its numbers, archived and taken up again"""
    assert (await receiver("topics", "add", "news", "--title", "News", "--double-opt-in", "--private")).code == 0
    again = await receiver("topics", "add", "news")
    assert (again.code, "topics edit news" in again.err) == (1, True)
    assert (await receiver("topics", "edit", "news", "--brand", "acme", "--public")).code == 0
    connection = await asyncpg.connect(database)
    statements = [said(1, "subscribed", "news"), said(2, "subscribed", "news"), said(3, "requested", "news")]
    await record(connection, [*statements, said(4, "unsubscribed", "news"), said(4, "unsubscribed", "17")])
    shown = (await receiver("topics", "show", "news", "--json")).rows[0]
    assert (shown["title"], shown["brand"], shown["double_opt_in"], shown["public"]) == ("News", "acme", True, True)
    assert (shown["subscribed"], shown["pending"], shown["unsubscribed"]) == (2, 1, 1)
    unsure = await receiver("topics", "archive", "news")
    assert (unsure.code, "2 addresses" in unsure.err) == (1, True)
    assert (await receiver("topics", "archive", "news", "--yes")).code == 0
    assert (await receiver("topics", "--json")).rows == []
    assert [row["name"] for row in (await receiver("topics", "--all", "--json")).rows] == ["news", "17"]
    assert (await receiver("topics", "archive", "news", "--undo", "--yes")).code == 0
    assert [row["archived_at"] for row in (await receiver("topics", "--json")).rows] == [None]
    audited = await connection.fetch("SELECT action FROM audit_log ORDER BY at")
    assert [row["action"] for row in audited] == ["topics add", "topics edit", "topics archive", "topics archive"]
    await connection.close()


async def test_topics_that_are_not_there(receiver: Receiver) -> None:
    """what is done to an unknown topic says which there are, and a name that would only confuse is refused"""
    for arguments in (("show", "nwes"), ("edit", "nwes", "--title", "x"), ("archive", "nwes", "--yes")):
        ended = await receiver("topics", *arguments)
        assert (ended.code, "receiver topics list" in ended.err) == (1, True)
    assert (await receiver("topics", "edit", "news")).code == 2
    assert (await receiver("topics", "add", " news")).code == 2
