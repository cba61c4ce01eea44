"""Sending as a whole: from a webhook to the mail that follows, and a provider that is busy for a while."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg

from receiver import EventType
from receiver.dispatch.worker import Worker
from receiver.sending import sendgrid, smtp
from receiver.sending.accounts import Account
from receiver.sending.rules import find_rules, handler_of
from receiver.sending.running import sender_of
from receiver.sending.sender import Sender
from receiver.sending_settings import SendingSettings
from receiver.vault import Vault
from tests.api_peer import Said, api_peer
from tests.outbox import Sending
from tests.pgbouncer import through
from tests.service import SECRET_KEY, play, running
from tests.smtp_peer import smtp_peer
from tests.test_rules import settings
from tests.workers import all_read, prepared, value

FROM = {"from": "Shop <hello@shop.example>"}


def sender(dsn: str, account: Account, wanted: Any) -> Sender:
    made = sender_of(wanted, {"main": account}, Vault(SECRET_KEY), through(dsn))
    assert made is not None
    return made


async def test_a_click_leads_to_exactly_one_mail(database: str, tmp_path: Path) -> None:
    """a simulated click that is posted three times leads to one mail at the server"""
    rule = {"when": "clicked", "source": "postmark", "send": "alarm"}
    wanted = settings(tmp_path, next_step=rule)
    handler = handler_of(find_rules(wanted)[0][0], settle=timedelta(seconds=1))
    worker = Worker(dsn=through(database), handlers=[handler], vault=Vault(SECRET_KEY), poll=(0.02, 0.1))
    postmark = play("postmark", tmp_path)
    async with smtp_peer() as peer:
        given = smtp.Settings(transport="smtp", host="127.0.0.1", port=peer.port, tls="none", **FROM)
        account = Account(name="main", settings=given, transport=smtp.open(given))
        sending = sender(database, account, wanted)
        sql = await asyncpg.connect(database)
        await prepared(sql, [handler])
        await sql.close()
        async with running(database, postmark, dispatcher=worker, sender=sending) as service:
            (click,) = postmark.posts(EventType.CLICKED, "ann@example.com")
            for _ in range(3):
                assert (await service.post("postmark", click)).status_code == 200
            await value(service.connection, "SELECT count(*) FROM sends WHERE state = 'sent'", 1)
            await all_read(service.connection)
            await value(service.connection, "SELECT count(*) FROM retries", 0)
            row = await service.connection.fetchrow("SELECT id, rule, internet_message_id FROM sends")
    assert row is not None
    (mail,) = peer.taken
    assert (mail["To"], mail["X-Send-Id"], mail["Message-ID"]) == (
        "ann@example.com",
        str(row["id"]),
        f"<{row['internet_message_id']}>",
    )
    assert row["rule"] == "next_step"


async def test_a_busy_provider_is_left_alone(database: str) -> None:
    """after a 429 and the requests in flight no sender asks again until the time is over, and nothing is lost"""
    sql = await asyncpg.connect(database)
    async with api_peer() as peer:
        peer.says(*[Said(202, "")] * 3, Said(429, "{}", {"retry-after": "5"}))
        outbox = Sending(database, sql, None)  # type: ignore[arg-type]  # no mail server
        for number in range(12):
            await outbox.queue(f"{number}", to=f"to{number}@example.com")
        async with outbox.running(*(_busy(outbox, peer.url) for _ in range(3))):
            await value(sql, "SELECT count(*) FROM send_accounts WHERE paused_until > clock_timestamp()", 1)
            await value(sql, "SELECT count(*) FROM sends WHERE state = 'leased'", 0)
            asked = len(peer.asked)
            assert asked <= 3 + 3 * 2
            peer.says(Said(202, ""))
            await sql.execute("UPDATE sends SET not_before = now() WHERE state = 'queued'")
            await value(sql, "SELECT count(*) FROM sends WHERE state = 'sent'", 12)
    await sql.close()
    assert min(one.at for one in peer.asked[asked:]) >= peer.asked[3].at + 5


def _busy(outbox: Sending, url: str) -> Sender:
    given = sendgrid.Settings(transport="sendgrid", api_key="k", url=url, private=True, **FROM)
    account = Account(name="main", settings=given, transport=sendgrid.open(given))
    return outbox.sender_by(account, rules=SendingSettings(concurrency=2))
