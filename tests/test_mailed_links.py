"""From a request to an unsubscribe, by mail: the links that people get, as they get them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

import asyncpg
import listunsub
import msgspec

from receiver.sending.accounts import Account
from receiver.sending.running import sender_of
from receiver.sending.smtp import Settings as SmtpSettings
from receiver.sending.smtp import Smtp
from receiver.sending.templates import Templates
from receiver.settings import Settings
from receiver.store import sends
from tests.pages import ADA, MEANS, PAGES, URL, VAULT, ask, may_be_mailed, topic
from tests.pgbouncer import through
from tests.service import running
from tests.smtp_peer import Peer, smtp_peer
from tests.waiting import until


@asynccontextmanager
async def sending(dsn: str, peer: Peer) -> AsyncIterator[None]:
    """The sender as `serve` runs it, through one account."""
    account = SmtpSettings(
        **{"transport": "smtp", "from": "hello@acme.example", "host": "127.0.0.1", "port": peer.port, "tls": "none"}
    )
    accounts = {"main": Account(name="main", settings=account, transport=Smtp(account, command=10, final_dot=10))}
    sender = sender_of(Settings(public_url=URL), accounts, VAULT, through(dsn))
    assert sender is not None
    stop = asyncio.Event()
    task = asyncio.create_task(sender.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def mail(peer: Peer, has: Callable[[EmailMessage], bool]) -> EmailMessage:
    """The mail that was taken and is the one."""

    async def taken() -> EmailMessage | None:
        return next((one for one in peer.taken if isinstance(one, EmailMessage) and has(one)), None)

    found = await until(taken)
    assert found is not None
    return found


def link_in(message: EmailMessage) -> str:
    text = message.get_body(("plain",))
    assert text is not None
    found = re.search(rf"{re.escape(URL)}(/\S+)", text.get_content())
    assert found is not None
    return found[1]


async def test_the_whole_way(database: str) -> None:
    """asked for, confirmed by the link in one mail, and left by the headers of another as a mailbox provider does it"""
    async with running(database, pages=PAGES, public_url=URL, means=MEANS) as service, smtp_peer() as peer:
        sql = service.connection
        await topic(sql, "club", "The club", description="Meetings.", double_opt_in=True)
        async with sending(database, peer):
            await ask(sql, "club", at=datetime.now(UTC))
            asked = await mail(peer, lambda one: one["Subject"] == "Please confirm: The club")
            assert asked["List-Unsubscribe"] is None
            assert asked["To"] == ADA
            assert (await service.client.post(link_in(asked) + "?confirm")).status_code == 200
            await news(sql)
            message = await mail(peer, lambda one: one["Subject"] == "The news")
            headers = message["List-Unsubscribe"], message["List-Unsubscribe-Post"]
            assert listunsub.audit(*map(str, headers)) == []
            (uri,) = listunsub.http_links(listunsub.parse(str(headers[0])))
            click = listunsub.one_click_request(uri)
            path = click.url.removeprefix(URL)
            await service.client.post(path, content=click.body, headers=click.headers)
            assert await may_be_mailed(sql, "club") == "unsubscribed"
            await service.client.post(path + "?preferences")
            preferences = await mail(peer, lambda one: "choose" in one["Subject"])
            assert (await service.client.get(link_in(preferences))).status_code == 200
            sent = await sql.fetchval("SELECT detail ->> 'send' FROM consent_log WHERE action = 'unsubscribed'")
            assert sent == str(await sql.fetchval("SELECT id FROM sends WHERE key = 'news'"))


async def news(sql: asyncpg.Connection) -> None:
    """Queue a message about the topic."""
    await sends.queue(
        sql,
        key="news",
        recipient=ADA,
        template="",
        stream="marketing",
        topic="club",
        data={},
        delay=timedelta(),
        cancel_on=(),
        handler="test",
        event_id=None,
        message=msgspec.json.encode({"subject": "The news", "text": "Hello"}).decode(),
    )


def test_the_shipped_templates(tmp_path: Path) -> None:
    """the product's own templates can be filled with their samples; a team's file of the same name comes first"""
    templates = Templates(tmp_path / "none")
    for name in ("confirm-subscription", "preferences"):
        sample = templates.meta(name).sample
        assert sample["url"] in (templates.render(name, sample).text or "")
    (tmp_path / "preferences").mkdir()
    (tmp_path / "preferences" / "subject.txt").write_text("Ours")
    (tmp_path / "preferences" / "body.txt").write_text("{{ url }}")
    assert Templates(tmp_path).render("preferences", {"url": URL}).subject == "Ours"
