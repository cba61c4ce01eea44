"""Messages of which no answer came: their providers are asked, by a real HTTP server in their place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import asyncpg
import pytest

from receiver.sending import reconciling
from receiver.sending.accounts import Account, find_accounts
from receiver.sending.finding import x_message_id
from receiver.sending.reconciling import ASKS, ask_providers
from receiver.sending.running import sender_of
from receiver.settings import Settings
from receiver.store import outbox, unknown_sends
from tests.api_peer import RESET, ApiPeer, Said, api_peer
from tests.cli import command_for
from tests.outbox import Sending
from tests.pgbouncer import through
from tests.test_sending_rest import KEYS
from tests.workers import VAULT, value

ROW = "SELECT state, reason, detail, provider_message_id, attempts, asks FROM sends WHERE id = $1"
NOTES = "SELECT outcome FROM send_attempts WHERE send_id = $1 ORDER BY id"


class Asking(Sending):
    """An outbox whose provider is the peer."""

    api: ApiPeer
    pool: asyncpg.Pool

    def accounts(self, name: str) -> dict[str, Account]:
        table = {"transport": name, "from": "hello@shop.example", "private": True, "url": self.api.url, **KEYS[name]}
        accounts, problems = find_accounts(Settings.model_validate({"accounts": {"main": table}}))
        assert problems == []
        return accounts

    async def lost(self, name: str, key: str = "k", **changes: Any) -> UUID:
        """A message that the peer was given, and said nothing to; three minutes ago."""
        id_ = await self.queue(key, **changes)
        assert id_ is not None
        self.api.says(RESET)
        async with self.running(self.sender_by(self.accounts(name)["main"])):
            await self.state(key, "unknown")
        await self.later(minutes=3)
        del self.api.asked[:]
        return id_

    async def later(self, **time: int) -> None:
        await self.sql.execute("UPDATE sends SET settled_at = settled_at - $1::interval", timedelta(**time))

    async def ask(self, name: str) -> None:
        await ask_providers(self.pool, self.accounts(name))

    async def row(self, id_: UUID) -> tuple[Any, ...]:
        return tuple(await self.sql.fetchrow(ROW, id_))  # type: ignore[arg-type]  # it is there

    async def notes(self, id_: UUID) -> list[str]:
        return [row["outcome"] for row in await self.sql.fetch(NOTES, id_)]


@pytest.fixture
async def asking(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asking]:
    monkeypatch.setattr(reconciling, "EVERY", timedelta(0))
    sql = await asyncpg.connect(database)
    async with api_peer() as peer, asyncpg.create_pool(database, min_size=1, max_size=3) as pool:
        one = Asking(database, sql, None)  # type: ignore[arg-type]  # no mail server
        one.api, one.pool = peer, pool
        yield one
    await sql.close()


def said(value: Any) -> Said:
    return Said(200, json.dumps(value))


def known_by(name: str, id_: UUID) -> list[Said]:
    """What the provider says of a message that it has."""
    message_id = f"{id_.hex}@shop.example"
    match name:
        case "mailgun":
            item = {"event": "accepted", "message": {"headers": {"message-id": message_id}}}
            return [said({"items": [item], "paging": {}})]
        case "postmark":
            message = {"MessageID": "pm-1", "Metadata": {"send_id": str(id_), "order": "7"}}
            return [said({"TotalCount": 1, "Messages": [message]})]
        case _:
            others = [{"sg_message_id": f"sg-{n}.recvd-5d8f-x2-1-64.0"} for n in (1, 2)]
            args = [{"custom_args": {"send_id": "another"}}, {"custom_args": {"send_id": str(id_)}}]
            return [said({"messages": others}), *map(said, args)]


UNKNOWN_TO = {"mailgun": {"items": []}, "postmark": {"TotalCount": 0, "Messages": []}, "sendgrid": {"messages": []}}


@pytest.mark.parametrize("name", sorted(UNKNOWN_TO))
async def test_what_the_provider_has_was_sent(asking: Asking, name: str) -> None:
    """a message that the provider knows is sent, under the provider's id of it, and does not go again"""
    id_ = await asking.lost(name)
    asking.api.says(*known_by(name, id_))
    await asking.ask(name)
    theirs = {"mailgun": f"{id_.hex}@shop.example", "postmark": "pm-1", "sendgrid": "sg-2"}[name]
    state, reason, detail, message_id, attempts, _ = await asking.row(id_)
    assert (state, reason, message_id, attempts) == ("sent", None, theirs, 1)
    assert "was asked, and has taken it (question 1 of 5)" in detail
    assert await asking.notes(id_) == ["unknown", "sent"]
    first = asking.api.asked[0]
    query = {key: one for key, (one,) in parse_qs(urlsplit(first.path).query).items()}
    match name:
        case "mailgun":
            assert first.path.startswith("/v3/shop.example/events?")
            assert (query["message-id"], query["ascending"]) == (theirs, "yes")
        case "postmark":
            assert (query["metadata_send_id"], query["messagestream"]) == (str(id_), "outbound")
        case _:
            assert "to_email = 'ann@example.com' AND" in json.loads(first.body)["query"]
            assert [one.path for one in asking.api.asked[1:]] == [
                f"/v3/logs/sg-{n}.recvd-5d8f-x2-1-64.0" for n in (1, 2)
            ]
    assert not any("ann" in one.path for one in asking.api.asked)


async def test_transactional_mail_goes_again(asking: Asking) -> None:
    """a provider is asked before transactional mail goes again; what it does not know goes again"""
    id_ = await asking.lost("postmark")
    await asking.later(minutes=9)
    again = partial(outbox.send_again, most=12, within=timedelta(days=3), asked=["main"])
    assert await again(asking.sql, timedelta(minutes=10)) == 0
    asking.api.says(said(UNKNOWN_TO["postmark"]))
    await asking.ask("postmark")
    assert (await asking.row(id_))[:2] == ("unknown", "not_found")
    asking.api.says(Said(200, '{"ErrorCode": 0, "MessageID": "pm-2"}'))
    async with asking.running(asking.sender_by(asking.accounts("postmark")["main"])):
        await asking.state("k", "sent")
    assert (await asking.row(id_))[3:] == ("pm-2", 2, 0)
    await asking.sql.execute("UPDATE sends SET state = 'unknown', settled_at = now() - interval '21 minutes'")
    assert await again(asking.sql, timedelta(minutes=10)) == 1


async def test_what_is_known_just_before_it_goes_again(asking: Asking) -> None:
    """a message that the provider turns out to have, when it is in hand to go again, does not go again"""
    id_ = await asking.lost("postmark")
    (row,) = await unknown_sends.due(asking.sql, "main", ASKS, until=timedelta(days=1), limit=1)
    await asking.later(hours=1)
    again = await outbox.send_again(asking.sql, timedelta(minutes=10), most=12, within=timedelta(days=3))
    found = list[bool]()

    async def told() -> None:
        """By a connection of its own: the other one is asked meanwhile."""
        sql = await asyncpg.connect(asking.dsn)
        found.append(await unknown_sends.found(sql, row, "Postmark has it", "pm-1"))
        await sql.close()

    asking.before = told
    async with asking.running(asking.sender_by(asking.accounts("postmark")["main"])):
        await asking.state("k", "sent")
    assert (again, found, asking.api.asked) == (1, [True], [])
    assert (await asking.row(id_))[2:4] == ("Postmark has it", "pm-1")


async def test_marketing_mail_stays_unknown(asking: Asking) -> None:
    """a provider that does not know a marketing message is asked five times, and the message never goes again"""
    await asking.subscribed("ann@example.com")
    id_ = await asking.lost("postmark", stream="marketing", topic="news")
    asking.api.says(said(UNKNOWN_TO["postmark"]))
    for wait in (*ASKS, timedelta(hours=1)):
        await asking.sql.execute("UPDATE sends SET settled_at = now() - $1::interval", wait)
        await asking.ask("postmark")
        await asking.ask("postmark")
    assert len(asking.api.asked) == 5
    assert "messagestream=broadcast" in asking.api.asked[0].path
    assert (await asking.row(id_))[:3] == (
        "unknown",
        "not_found",
        "Postmark was asked, and does not know it (question 5 of 5)",
    )
    assert await asking.notes(id_) == ["unknown", "unknown"]
    async with asking.running(asking.sender_by(asking.accounts("postmark")["main"])):
        await asking.queue("other", to="bob@example.com")
        asking.api.says(Said(200, '{"ErrorCode": 0, "MessageID": "pm-2"}'))
        await asking.state("other", "sent")
    assert (await asking.row(id_))[0] == "unknown"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("mailgun", Said(403)),
        ("mailgun", said({"items": [{"event": "accepted", "message": {"headers": {"message-id": "x"}}}]})),
        ("postmark", said({"Messages": [{"MessageID": "pm-1", "Metadata": {}}]})),
        ("postmark", Said(200, "<html>")),
        ("sendgrid", Said(429, "{}", {"retry-after": "60"})),
        ("sendgrid", RESET),
    ],
    ids=str,
)
async def test_no_answer_is_not_a_no(asking: Asking, name: str, answer: Said | str) -> None:
    """where the provider refuses, is busy or says something else nothing is concluded, and it is left alone at first"""
    ids = [await asking.lost(name, key, to=f"{key}@example.com") for key in ("a", "b")]
    asking.api.says(answer)
    await asking.ask(name)
    rows = sorted([await asking.row(one) for one in ids], key=lambda row: row[5])
    assert [(row[0], row[1], row[5]) for row in rows] == [("unknown", "no_answer", 0), ("unknown", "no_answer", 1)]
    assert "did not say" in rows[1][2]
    assert "@" not in rows[1][2]


async def test_nobody_asks_at_the_same_time_or_while_paused(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """of several processes one asks, once a minute; while the account or everything is paused none does"""
    await asking.lost("postmark")
    asking.api.says(said(UNKNOWN_TO["postmark"]))
    for name in ("main", "*"):
        await outbox.pause(asking.sql, name, None, by="me", reason="test")
        await asking.ask("postmark")
        await outbox.resume(asking.sql, name)
    assert asking.api.asked == []
    monkeypatch.setattr(reconciling, "EVERY", timedelta(minutes=1))
    await asyncio.gather(*(asking.ask("postmark") for _ in range(3)))
    await asking.later(hours=1)
    await asking.ask("postmark")
    assert len(asking.api.asked) == 1


async def test_the_service_asks(
    asking: Asking, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """the running service asks by itself, and `receiver sends show` says how the message was settled"""
    id_ = await asking.lost("postmark")
    asking.api.says(*known_by("postmark", id_))
    sender = sender_of(Settings(), asking.accounts("postmark"), VAULT, through(asking.dsn))
    assert sender is not None
    async with asking.running(sender):
        await value(asking.sql, "SELECT state FROM sends WHERE id = $1", "sent", id_)
    receiver = command_for(asking.dsn, tmp_path, capsys, monkeypatch)
    page = await receiver("sends", "show", str(id_), "--json")
    (shown,) = page.rows
    assert shown["detail"] == shown["attempts"][-1]["detail"]
    assert shown["detail"] == "Postmark was asked, and has taken it (question 1 of 5)"


@pytest.mark.parametrize(
    ("raw", "message_id"),
    [
        ("14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0", "14c5d75ce93.dfd.64b469"),
        ("a-b_c.recvd-5d8f9c7b6d-x2k4q-1-64A91C03-1.0", "a-b_c"),
        ("plain.0", "plain"),
    ],
)
def test_sendgrids_ids(raw: str, message_id: str) -> None:
    """the id of a message is what the answer to the request calls it, and events do"""
    assert x_message_id(raw) == message_id
