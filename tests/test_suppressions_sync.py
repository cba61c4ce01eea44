"""`receiver suppressions sync`: our suppressions beside the lists of a provider, with a server in its place."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from receiver.sending import list_client
from receiver.sending.list_client import ListFault
from receiver.sending.provider_lists import ProviderLists, lists_of
from tests.api_peer import ApiPeer, Said, api_peer
from tests.cli import Receiver
from tests.people import VAULT, people
from tests.test_sending_rest import KEYS

T = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
AT = int(T.timestamp())
EMPTY = Said(200, "[]")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_client, "PAUSE", timedelta(0))


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with people(database) as connection:
        yield connection


def said(value: Any) -> Said:
    return Said(200, json.dumps(value))


def bounced(*names: str) -> Said:
    return said([{"email": f"{name}@x.test", "created": AT, "reason": "550", "status": "5.1.1"} for name in names])


async def suppressed(
    sql: asyncpg.Connection, name: str, *, reason: str = "hard_bounce", known: bool = True, lifted: bool = False
) -> None:
    address, scope = f"{name}@x.test", "marketing" if reason == "complaint" else "all"
    await sql.execute(
        "INSERT INTO suppressions (address_hash, reason, scope, since, last_at, source, lifted_at)"
        " VALUES ($1, $2, $3, $4, $4, 'shop', $5)",
        *(VAULT.address_hash(address), reason, scope, T, T + timedelta(days=1) if lifted else None),
    )
    if known:
        insert = "INSERT INTO contacts (address, address_hash) VALUES ($1, $2)"
        await sql.execute(insert, address, VAULT.address_hash(address))


async def test_both_sides_are_evened_out(receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """differences are shown and change nothing; --pull imports, --push adds and takes off, and then there are none"""
    await suppressed(sql, "both")
    await suppressed(sql, "ours")
    await suppressed(sql, "nameless", known=False)
    await suppressed(sql, "lifted", lifted=True)
    await suppressed(sql, "marketing", reason="complaint")
    lists = [bounced("both", "lifted", "theirs"), EMPTY, EMPTY, said([{"email": "gone@x.test", "created": AT}])]
    async with api_peer() as peer:
        (tmp_path / "receiver.toml").write_text(
            '[accounts.main]\ntransport = "sendgrid"\nfrom = "hello@shop.example"\napi_key = ["old", "new"]\n'
            f'private = true\nurl = "{peer.url}"\n[accounts.plain]\ntransport = "smtp"\nfrom = "a@shop.example"\n'
            'host = "smtp.example"\nstreams = []\n'
        )
        peer.says(Said(401), Said(429, "{}", {"retry-after": "0"}), *lists)
        shown = await receiver("suppressions", "sync", "main", "--json")
        assert {(row["address"], row["difference"], row["list"]) for row in shown.rows} == {
            ("theirs@x.test", "only there", "bounces"),
            ("gone@x.test", "only there", "unsubscribes"),
            ("lifted@x.test", "lifted here, still held there", "bounces"),
            ("ours@x.test", "only here", None),
        }
        assert "1 more are only here, by hash" in shown.err

        peer.says(*lists)
        dry = await receiver("suppressions", "sync", "main", "--pull", "--push", "--dry-run")
        assert (dry.code, {one.method for one in peer.asked}) == (0, {"GET"})
        assert await sql.fetchval("SELECT count(*) FROM suppressions") == 5

        peer.says(*lists)
        assert (await receiver("suppressions", "sync", "main", "--pull", "--yes")).code == 0
        found = await sql.fetch("SELECT address_hash, reason, since FROM suppressions WHERE active")
        names = {VAULT.address_hash(f"{name}@x.test"): name for name in ("both", "ours", "marketing", "theirs", "gone")}
        assert {(names.get(row["address_hash"]), row["reason"]) for row in found if row["since"] == T} == {
            *((name, "hard_bounce") for name in ("both", "ours", None, "theirs")),
            ("marketing", "complaint"),
            ("gone", "unsubscribe"),
        }

        del peer.asked[:]
        peer.says(*lists, Said(201), Said(204, ""))
        done = await receiver("suppressions", "sync", "main", "--push", "--yes")
        assert (done.code, "2 changed at sendgrid" in done.err) == (0, True)
        told = [(one.method, one.path, json.loads(one.body)) for one in peer.asked if one.method != "GET"]
        assert told == [
            ("POST", "/v3/asm/suppressions/global", {"recipient_emails": ["ours@x.test"]}),
            ("DELETE", "/v3/suppression/bounces", {"emails": ["lifted@x.test"]}),
        ]

        # What we have put there is not taken for a word of the person, and goes once it is lifted here.
        lists = [bounced("both"), EMPTY, EMPTY, said([{"email": "ours@x.test", "created": AT}])]
        peer.says(*lists)
        assert (await receiver("suppressions", "sync", "main", "--pull", "--yes")).code == 0
        assert await sql.fetchval("SELECT count(*) FROM suppressions WHERE reason = 'unsubscribe'") == 1
        await sql.execute(
            "UPDATE suppressions SET lifted_at = now() WHERE address_hash = $1", VAULT.address_hash("ours@x.test")
        )
        peer.says(*lists)
        (row,) = [row for row in (await receiver("suppressions", "sync", "main", "--json")).rows if row["list"]]
        assert (row["address"], row["difference"]) == ("ours@x.test", "lifted here, still held there")

        audit = await sql.fetchval("SELECT count(*) FROM audit_log WHERE action = 'suppressions sync'")
        assert audit == 3
    for account, why in (("plain", "smtp has no suppression list"), ("other", "there is no account other")):
        ended = await receiver("suppressions", "sync", account)
        assert (ended.code, why in ended.err) == (1, True)


def opened(name: str, peer: ApiPeer) -> ProviderLists:
    module: Any = import_module(f"receiver.sending.{name}")
    settings = {"transport": name, "from": "hello@shop.example", "private": True, "url": peer.url, **KEYS[name]}
    lists = lists_of(module.Settings.model_validate(settings))
    assert lists is not None
    return lists


MAILGUN_PAGE = {
    "items": [{"address": "a@x.test"}],
    "paging": {"next": "https://elsewhere.example/v3/d/x?page=next&a=1"},
}

# Name; what it says; the rows' number; what is asked; what is asked to add two, and to take them off.
PROVIDERS: list[tuple[str, list[Any], int, list[str], list[str]]] = [
    (
        "mailgun",
        [MAILGUN_PAGE, {"items": []}, {"items": []}, {"items": []}],
        1,
        [
            "GET /v3/shop.example/bounces?limit=1000",
            "GET /v3/shop.example/bounces?page=next&a=1",
            "GET /v3/shop.example/complaints?limit=1000",
            "GET /v3/shop.example/unsubscribes?limit=1000",
        ],
        [
            "POST /v3/shop.example/bounces",
            "DELETE /v3/shop.example/complaints/a%40x.test",
            "DELETE /v3/shop.example/complaints/b%2Bc%40x.test",
        ],
    ),
    (
        "postmark",
        [{"Suppressions": [{}, {}]}, {"Suppressions": [{}]}],
        3,
        ["GET /message-streams/outbound/suppressions/dump", "GET /message-streams/broadcast/suppressions/dump"],
        [
            "POST /message-streams/broadcast/suppressions",
            "POST /message-streams/outbound/suppressions",
            "POST /message-streams/complaints/suppressions/delete",
        ],
    ),
    (
        "ses",
        [
            {"SuppressedDestinationSummaries": [{}], "NextToken": "a/b=="},
            {"SuppressedDestinationSummaries": [{}, {}]},
        ],
        3,
        ["GET /v2/email/suppression/addresses", "GET /v2/email/suppression/addresses?NextToken=a%2Fb%3D%3D"],
        [
            *["PUT /v2/email/suppression/addresses"] * 2,
            "DELETE /v2/email/suppression/addresses/a%40x.test",
            "DELETE /v2/email/suppression/addresses/b%2Bc%40x.test",
        ],
    ),
    (
        "resend",
        [{"data": [{"id": "i-1"}], "has_more": True}, {"data": [{"id": "i-2"}], "has_more": False}],
        2,
        ["GET /suppressions?limit=100", "GET /suppressions?limit=100&after=i-1"],
        ["POST /suppressions/batch/add", "POST /suppressions/batch/remove"],
    ),
]


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider[0])
async def test_lists_of_a_provider(provider: tuple[str, list[Any], int, list[str], list[str]]) -> None:
    """every page of every list is read, and addresses go on and off by the calls that the provider documents"""
    name, answers, count, asked, changes = provider
    async with api_peer() as peer:
        lists = opened(name, peer)
        peer.says(*map(said, answers))
        assert sum([len(page.rows) async for page in lists.pages()]) == count
        assert [f"{one.method} {one.path}" for one in peer.asked] == asked
        del peer.asked[:]
        refused = said({"Suppressions": [{"Status": "Failed"}, {"Status": "Deleted"}]})
        peer.says(refused if name == "postmark" else Said(404) if name == "ses" else said({}))
        two = ["a@x.test", "b+c@x.test"]
        if name == "ses":
            peer.says(said({}), said({}), Said(404))  # off the list already
        assert await lists.add(two, all_mail=True) == (name == "postmark")
        assert await lists.remove("complaints", two) == (name == "postmark")
        assert [f"{one.method} {one.path}" for one in peer.asked] == changes
        await lists.client.aclose()


@pytest.mark.parametrize("answer", [Said(403), Said(404), Said(200, "<html>"), Said(200, '{"error": 1}'), Said(503)])
async def test_no_answer_is_not_an_empty_list(answer: Said) -> None:
    """where the provider refuses, is down or says something else, the command ends, and nothing is concluded from it"""
    async with api_peer() as peer:
        lists = opened("resend", peer)
        peer.says(answer)
        with pytest.raises(ListFault):
            _ = [page async for page in lists.pages()]
        await lists.client.aclose()
