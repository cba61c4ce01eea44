"""What a stranger can make the service do: bounds on the work and on the rows of one request, or of one signature."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from receiver.contract import Post
from receiver.signers import in_body, sns
from tests.service import Played, Running, play, running

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


# Rows of quarantine ------------------------------------------------------------------------------------------------


def mailgun_block(mailgun: Played, at: datetime) -> dict[str, str]:
    return in_body.mailgun(mailgun.keys["signing_key"], int(at.timestamp()))


def unreadable_bodies(block: dict[str, str]) -> list[Post]:
    """Posts that carry one signature and nothing that can be read, each different."""
    signature = json.dumps(block).encode()
    moved = block | {"timestamp": block["timestamp"] + block["token"][:3], "token": block["token"][3:]}
    bodies = [
        b'{"signature":%s,"event-data":%d}' % (signature, 1),
        b'{"signature":%s,"event-data":%d}' % (signature, 2),
        b'{"signature":%s,"event-data":{"event":NaN,"a":tru}}' % signature,
        b'{"signature":%s,"event-data":{"event":NaN,"b":tru}}' % signature,
        b'{"signature":%s,"event-data":%s}' % (signature, b"[" * 300 + b"]" * 300),
        b'{"signature":%s}' % signature,
        b'{"signature":%s,"more":1}' % signature,
        json.dumps({"signature": moved}).encode(),  # the border between timestamp and token is not signed
    ]
    return [Post(headers=JSON, body=body) for body in bodies]


async def quarantined(service: Running) -> list[tuple[str, str]]:
    rows = await service.connection.fetch("SELECT kind, why FROM quarantine ORDER BY id")
    return [(row["kind"], row["why"]) for row in rows]


async def test_one_mailgun_signature_is_one_row_of_quarantine(database: str, tmp_path: Path) -> None:
    """one captured signature, which covers no body, fills one row of quarantine however many bodies carry it."""
    mailgun = play("mailgun", tmp_path)
    now = datetime.now(UTC)
    async with running(database, mailgun) as service:
        for post in unreadable_bodies(mailgun_block(mailgun, now)):
            assert (await service.post("mailgun", post)).status_code in {200, 401}
        assert len(await quarantined(service)) == 1
        for post in unreadable_bodies(mailgun_block(mailgun, now))[:2]:  # another signature
            assert (await service.post("mailgun", post)).status_code == 200
        assert [kind for kind, _ in await quarantined(service)] == ["item", "item"]
        assert await service.count("events") == 0


async def test_one_stale_mailgun_signature_is_one_row_of_quarantine(database: str, tmp_path: Path) -> None:
    """an old captured signature fills one row too, in either of Mailgun's formats."""
    mailgun = play("mailgun", tmp_path)
    block = mailgun_block(mailgun, datetime.now(UTC) - timedelta(days=3))
    forms = [Post(headers=FORM, body=urlencode({"event": "opened", "n": n} | block).encode()) for n in range(3)]
    async with running(database, mailgun) as service:
        for post in [*unreadable_bodies(block), *forms]:
            assert (await service.post("mailgun", post)).status_code == 401
        assert [kind for kind, _ in await quarantined(service)] == ["stale"]


async def test_one_mailgun_signature_and_a_row_that_postgres_refuses(database: str, tmp_path: Path) -> None:
    """a row that the database refuses is set aside once for each signature as well."""
    mailgun = play("mailgun", tmp_path)
    block = mailgun_block(mailgun, datetime.now(UTC))
    async with running(database, mailgun) as service:
        await service.connection.execute("ALTER TABLE events ADD CHECK (recipient NOT LIKE 'user%')")
        for number in range(5):
            event = {"event": "opened", "timestamp": 1700000000 + number, "recipient": f"user{number}@one.test"}
            post = Post(headers=JSON, body=json.dumps({"signature": block, "event-data": event}).encode())
            assert (await service.post("mailgun", post)).status_code == 200
        assert len(await quarantined(service)) == 1


async def test_one_sns_signature_is_one_row_of_quarantine(database: str, tmp_path: Path) -> None:
    """the layout and the unsigned fields of an old SNS message may differ: what is signed is kept once."""
    ses = play("ses", tmp_path, tolerance=60)
    old = datetime.now(UTC) - timedelta(hours=1)
    message = sns.sign(sns.notification("{}", old, topic=sns.arn_of(ses.keys)), ses.keys["private_key"])
    bodies: list[Any] = [
        json.dumps(message),
        json.dumps(message, indent=1),
        json.dumps(message | {"UnsubscribeURL": "https://evil.example/"}),
        json.dumps({"more": 1} | message),
    ]
    async with running(database, ses) as service:
        for body in bodies:
            post = Post(headers=sns.headers_of(message), body=body.encode())
            assert (await service.post("ses", post)).status_code == 403
        assert [kind for kind, _ in await quarantined(service)] == ["stale"]
