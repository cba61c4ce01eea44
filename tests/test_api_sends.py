"""Messages and broadcasts by the API: queued once, judged at once, and sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from receiver.sending.accounts import STREAMS, bind_accounts
from receiver.sending.means import means_of
from receiver.sending.running import sender_of
from receiver.settings import Settings
from receiver.vault import Vault
from tests.api import Api, api
from tests.pgbouncer import through
from tests.service import SECRET_KEY
from tests.smtp_peer import Peer, smtp_peer
from tests.waiting import until

RECEIPT = {"to": "Ann@Example.com", "template": "receipt", "data": {"order": 7}, "key": "receipt:7"}
NEWS = {"topic": "news", "message": {"subject": "News", "text": "Hello"}}


@dataclass
class Shop:
    """The service with an account, two templates and a topic."""

    api: Api
    peer: Peer
    dsn: str
    settings: Settings

    async def sent(self, count: int) -> None:
        """Run the sender until the peer has so many."""
        sender = sender_of(self.settings, bind_accounts(self.settings), Vault(SECRET_KEY), through(self.dsn))
        assert sender is not None
        stop = asyncio.Event()
        task = asyncio.create_task(sender.run(stop))

        async def enough() -> bool:
            return len(self.peer.taken) >= count

        try:
            await until(enough)
        finally:
            stop.set()
            await task

    async def refused(self, path: str, body: Any) -> tuple[int, str]:
        """Status, and the place of the first wrong value."""
        answer = await self.api.call("POST", path, json=body)
        return answer.status_code, (answer.json().get("errors") or [{"pointer": ""}])[0]["pointer"]


@pytest.fixture
async def shop(database: str, tmp_path: Path) -> AsyncIterator[Shop]:
    for name, text in (("receipt", "Order {{ order }}"), ("sale", "Dear {{ contact.name }}: {{ unsubscribe_url }}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "subject.txt").write_text(name)
        (tmp_path / name / "body.txt").write_text(text)
    (tmp_path / "receipt" / "meta.toml").write_text('stream = "transactional"')
    async with smtp_peer() as peer:
        account = {"transport": "smtp", "from": "hello@shop.example", "host": "127.0.0.1", "port": peer.port}
        settings = Settings.model_validate(
            {
                "database": SecretStr("embedded"),
                "public_url": "https://mail.shop.example",
                "sending": {"templates_dir": tmp_path},
                "accounts": {"main": {**account, "tls": "none"}},
            }
        )
        async with api(database, means=means_of(settings), public_url=settings.public_url) as one:
            await one.post("/topics", {"name": "news", "title": "News"})
            yield Shop(one, peer, database, settings)


async def test_a_message_is_queued_once_and_sent(shop: Shop) -> None:
    """the same key is queued once, the message goes out, and shows each attempt with what the guard said"""
    first = await shop.api.call("POST", "/sends", json=RECEIPT)
    assert (first.status_code, first.json()["stream"]) == (201, "transactional")
    again = await shop.api.call("POST", "/sends", json=RECEIPT)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    later = await shop.api.post("/sends", {**RECEIPT, "key": "later", "delay": 3600})
    await shop.sent(1)
    assert str(shop.peer.taken[0].get_payload()).strip() == "Order 7"
    shown = await shop.api.get(first.headers["location"].removeprefix("/api/v1"))
    assert (shown["state"], shown["to"], shown["tried"][0]["outcome"]) == ("sent", "ann@example.com", "sent")
    assert [one["verdict"] for one in shown["tried"][0]["checks"]] == ["go"] * 5
    cancelled = await shop.api.post(f"/sends/{later['id']}/cancel", None)
    assert cancelled["state"] == "cancelled"
    assert (await shop.api.call("POST", f"/sends/{later['id']}/cancel")).status_code == 409
    page = await shop.api.get("/sends", params={"limit": 1})
    assert [one["key"] for one in page["items"]] == ["later"]
    rest = await shop.api.get("/sends", params={"limit": 1, "cursor": page["next"]})
    assert [one["key"] for one in rest["items"]] == ["receipt:7"]
    found = await shop.api.post("/sends/search", {"recipient": "ann@example.com", "state": ["sent"]})
    assert [one["key"] for one in found["items"]] == ["receipt:7"]


async def test_what_is_wrong_is_told_at_once(shop: Shop) -> None:
    """a wrong template, a missing value, marketing mail without a topic, and what no message may hold are refused"""
    text = {"subject": "x", "text": "x"}
    message = {"to": "ann@example.com", "message": text}
    for change, pointer in (
        ({**RECEIPT, "template": "reciept"}, "#/template"),
        ({**RECEIPT, "data": {}}, "#/template"),
        ({**RECEIPT, "to": "ann"}, "#/to"),
        ({**RECEIPT, "account": "mian"}, "#/account"),
        ({**RECEIPT, "cancel_on": ["klicked"]}, "#/cancel_on"),
        ({**RECEIPT, "key": "broadcast:x"}, "#/key"),
        (message, "#/topic"),
        ({**message, "topic": "nwes"}, "#/topic"),
        ({**message, "stream": "transactional", "template": "receipt"}, "#"),
        ({**message, "stream": "transactional", "message": {**text, "headers": {"Bcc": "b"}}}, "#/message"),
    ):  # fmt: skip
        assert await shop.refused("/sends", change) == (422, pointer)
    assert await shop.api.service.count("sends") == 0


def test_mail_that_no_account_sends(shop: Shop) -> None:
    """a message of a stream that goes by no account is refused, unless it names one"""
    account = shop.settings.accounts["main"] | {"streams": ["transactional"]}
    means = means_of(shop.settings.model_copy(update={"accounts": {"main": account}}))
    said = {(stream, name): means.no_account(name, stream) for stream in STREAMS for name in (None, "main")}
    assert {key for key, why in said.items() if why is not None} == {("marketing", None)}


async def test_many_at_once(shop: Shop) -> None:
    """each message of a batch has a result of its own, in its place; the good ones go out, to whom they may"""
    await shop.api.post(
        "/subscriptions", {"address": "ann@example.com", "topic": "news", "action": "subscribe", "wording": "Yes."}
    )
    batch = [
        {**NEWS, "to": "ann@example.com", "key": "n:ann"},
        {**NEWS, "to": "nobody"},
        {**NEWS, "to": "bob@example.com", "key": "n:bob"},
        {**RECEIPT, "data": {}},
        {**NEWS, "to": "ann@example.com", "key": "n:ann"},
    ]
    results = (await shop.api.post("/sends/batch", {"messages": batch}))["results"]
    assert [one["status"] for one in results] == ["queued", "refused", "queued", "refused", "exists"]
    assert [one["field"] for one in results] == [None, "to", None, "template", None]
    assert results[4]["id"] == results[0]["id"]
    assert (await shop.refused("/sends/batch", {"messages": [batch[0]] * 1001}))[0] == 422
    await shop.sent(1)
    (mail,) = shop.peer.taken
    assert (mail["To"], mail["List-Unsubscribe-Post"]) == ("ann@example.com", "List-Unsubscribe=One-Click")


async def test_a_broadcast(shop: Shop) -> None:
    """a broadcast is previewed, started once, paused, resumed and cancelled, by a scope of its own"""
    for name in ("ann", "bob"):
        await shop.api.post("/contacts", {"address": f"{name}@example.com", "name": name})
        said = {"address": f"{name}@example.com", "topic": "news", "action": "subscribe", "wording": "Yes."}
        await shop.api.post("/subscriptions", said)
    sale = {"name": "spring", "template": "sale", "topic": "news"}
    previewed = await shop.api.post("/broadcasts/preview", sale)
    assert (previewed["count"], len(previewed["sample"])) == (2, 2)
    assert await shop.refused("/broadcasts", {**sale, "template": "receipt"}) == (422, "#/template")
    assert await shop.refused("/broadcasts", {**sale, "segment": "none"}) == (422, "#/segment")
    _, weak = await shop.api.make_key("sends:write", "sends:read")
    assert (await shop.api.call("POST", "/broadcasts", json=sale, key=weak)).status_code == 403
    started = await shop.api.call("POST", "/broadcasts", json=sale)
    assert (started.status_code, started.headers["location"]) == (201, "/api/v1/broadcasts/spring")
    assert (await shop.api.call("POST", "/broadcasts", json=sale)).status_code == 409
    paused = await shop.api.post("/broadcasts/spring/pause", {"why": "wrong price"})
    assert (paused["state"], paused["reason"]) == ("paused", "wrong price")
    await shop.api.post("/broadcasts/spring/resume", None)
    await shop.sent(2)
    shown = await shop.api.get("/broadcasts/spring", key=weak)
    assert (shown["expected"], shown["queued"]) == (2, 2)
    await shop.api.post("/broadcasts/spring/cancel", None)
    assert (await shop.api.call("POST", "/broadcasts/spring/resume")).status_code == 409
    assert [one["state"] for one in (await shop.api.get("/broadcasts"))["items"]] == ["cancelled"]
