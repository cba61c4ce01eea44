"""What a stranger can make the service do: bounds on the work and on the rows of one request, or of one signature."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from receiver.contract import Authentic, Delivery, Post
from receiver.ingest.mangled import BURST, EVERY
from receiver.signers import in_body, sns
from tests.service import WORLD, Played, Running, play, running

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


# Guesses at what changed a body ------------------------------------------------------------------------------------


def counted(played: Played) -> list[int]:
    """The sizes of the bodies that the source's provider is asked to authenticate, from now on."""
    sizes: list[int] = []
    kind = type(played.source.provider)

    async def counting(provider: Any, delivery: Delivery) -> Authentic:
        sizes.append(len(delivery.body))
        return await kind.authenticate(provider, delivery)

    counter = type(kind.__name__, (kind,), {"authenticate": counting})
    object.__setattr__(played.source, "provider", counter(played.source.settings, WORLD))
    return sizes


def forged(sendgrid: Played, body: bytes) -> Post:
    """A post whose signature is a right one of another body."""
    (post,) = sendgrid.post_items([{"event": "open"}])
    return Post(headers=post.headers, body=body)


GUESSES = 7


async def test_guesses_at_a_body_are_few(database: str, tmp_path: Path) -> None:
    """a wrong signature costs its own check and at most seven more, all of bodies of about the same size."""
    sendgrid = play("sendgrid", tmp_path)
    sizes = counted(sendgrid)
    async with running(database, sendgrid) as service:
        body = b' {"event" : "\xc3\xa4" , "n":[1, 2]}'
        assert (await service.post("sendgrid", forged(sendgrid, body))).status_code == 401
        assert 1 + 4 < len(sizes) <= 1 + GUESSES
        assert max(sizes) <= 2 * len(body)


async def test_a_large_body_is_not_guessed_at(database: str, tmp_path: Path) -> None:
    """a body of more than 64 kB is checked once and never decoded for guesses; one at the limit is."""
    sendgrid = play("sendgrid", tmp_path)
    sizes = counted(sendgrid)
    async with running(database, sendgrid) as service:
        large = b"[%s]" % (b" " * (64 * 1024 - 1))
        assert (await service.post("sendgrid", forged(sendgrid, large))).status_code == 401
        assert sizes == [len(large)]
        assert (await service.post("sendgrid", forged(sendgrid, large[1:]))).status_code == 401
        assert len(sizes) > 2


async def test_deep_bodies_are_not_guessed_at_for_long(database: str, tmp_path: Path) -> None:
    """a body nested deeper than anybody encodes again is refused like any other, and only its line end is guessed."""
    sendgrid = play("sendgrid", tmp_path)
    sizes = counted(sendgrid)
    async with running(database, sendgrid) as service:
        for deep in (b"[" * 30_000 + b"]" * 30_000, b'{"a":' * 990 + b"1" + b"}" * 990, b"[" * 60_000):
            sizes.clear()
            assert (await service.post("sendgrid", forged(sendgrid, deep))).status_code == 401
            assert len(sizes) <= 1 + GUESSES


async def test_guesses_are_seldom(database: str, tmp_path: Path) -> None:
    """a flood of wrong signatures makes the service guess for a few of them, whatever their number."""
    sendgrid = play("sendgrid", tmp_path)
    sizes = counted(sendgrid)
    flood = 60
    async with running(database, sendgrid) as service:
        started = time.monotonic()
        await service.post("sendgrid", forged(sendgrid, b'{ "n": 0 }'))
        guesses_for_one = len(sizes) - 1
        for number in range(1, flood):
            assert (await service.post("sendgrid", forged(sendgrid, b'{ "n": %d }' % number))).status_code == 401
        guessed_for = BURST + (time.monotonic() - started) / EVERY
    assert 0 < len(sizes) - flood <= guesses_for_one * guessed_for


async def test_a_signature_that_covers_no_body_gives_nothing_to_guess(database: str, tmp_path: Path) -> None:
    """where the body is not what is signed, another body cannot make a signature right, and none is tried."""
    mailgun, ses = play("mailgun", tmp_path), play("ses", tmp_path)
    mailgun_sizes, ses_sizes = counted(mailgun), counted(ses)
    block = in_body.mailgun("0123456789abcdef", int(datetime.now(UTC).timestamp()))
    message = sns.notification("{}", datetime.now(UTC), topic=sns.arn_of(ses.keys)) | {"Signature": "AAAA"}
    async with running(database, mailgun, ses) as service:
        post = Post(headers=JSON, body=json.dumps({"signature": block, "event-data": {}}).encode())
        assert (await service.post("mailgun", post)).status_code == 401
        post = Post(headers=sns.headers_of(message), body=sns.body_of(message))
        assert (await service.post("ses", post)).status_code == 403
    assert (len(mailgun_sizes), len(ses_sizes)) == (1, 1)
