"""Receiving: what is answered, and what is stored then."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import tracemalloc
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

from receiver.contract import Item, Post
from receiver.event import EventType, Reading
from receiver.signers import ecdsa
from receiver.web.listen import PortTaken, bind
from tests.service import Played, Running, play, running
from tests.waiting import until


def batch(count: int, *, word: str = "delivered", run: str = "x") -> list[dict[str, Any]]:
    """SendGrid items, all distinct."""
    now = int(datetime.now(UTC).timestamp())
    return [
        {
            "email": f"user{number}@one.test",
            "timestamp": now,
            "event": word,
            "smtp-id": f"<{run}-{number}@mail.test>",
            "sg_event_id": f"{run}{number}",
            "sg_message_id": f"{run}{number}.recvd-1",
        }
        for number in range(count)
    ]


def signed(sendgrid: Played, body: bytes) -> Post:
    """A SendGrid post of exactly these bytes."""
    stamp = str(int(datetime.now(UTC).timestamp()))
    signature = ecdsa.sign(sendgrid.keys["private_key"], stamp.encode() + body)
    return Post(
        headers={
            "Content-Type": "application/json",
            "X-Twilio-Email-Event-Webhook-Signature": signature,
            "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
        },
        body=body,
    )


async def test_lists_of_the_provider(database: str, tmp_path: Path) -> None:
    """what the provider calls a list becomes our topic where the source says so, and else stays or is the source's"""
    sendgrid = play("sendgrid", tmp_path, lists='{"12345": "news"}', default_topic="letters")
    items = [
        item | ({"asm_group_id": group} if group else {})
        for item, group in zip(batch(3, word="group_unsubscribe"), (12345, 7, None), strict=True)
    ]
    async with running(database, sendgrid) as service:
        answer = await service.post("sendgrid", signed(sendgrid, json.dumps(items).encode()))
        assert answer.status_code == 200
        assert [row["topic"] for row in await service.events()] == ["news", "7", "letters"]


async def test_a_signed_batch_is_stored_before_it_is_answered(database: str, tmp_path: Path) -> None:
    """a signed SendGrid batch becomes one row for each event."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        for post in sendgrid.posts(EventType.BOUNCED, "ann@one.test", "bob@two.test"):
            assert (await service.post("sendgrid", post)).status_code == 200
        rows = await service.events()
    assert [(row["type"], row["recipient"]) for row in rows] == [
        ("bounced", "ann@one.test"),
        ("bounced", "bob@two.test"),
    ]
    assert rows[0]["recipient_domain"] == "one.test"
    assert rows[0]["bounce_category"] == "hard"
    assert json.loads(rows[0]["raw"])["email"] == "ann@one.test"


async def test_a_replayed_batch_stores_nothing_new(database: str, tmp_path: Path) -> None:
    """a replayed batch stores nothing new, and is answered with success."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        (post,) = sendgrid.post_items(batch(10))
        assert [(await service.post("sendgrid", post)).status_code for _ in range(3)] == [200, 200, 200]
        assert await service.count("events") == 10
        assert await service.count("event_ids") == 10


async def test_the_same_event_twice_in_one_batch_is_one_row(database: str, tmp_path: Path) -> None:
    """a batch that holds the same event twice stores it once and is answered with success."""
    sendgrid = play("sendgrid", tmp_path)
    items = batch(3)
    async with running(database, sendgrid) as service:
        (post,) = sendgrid.post_items([*items, items[1], {**items[2], "sg_event_id": "new-id-for-a-retry"}])
        assert (await service.post("sendgrid", post)).status_code == 200
        assert await service.count("events") == 3


async def test_a_batch_that_was_known_in_part_brings_the_rest(database: str, tmp_path: Path) -> None:
    """of a batch in which some events are stored already the others are stored, and those stay as they are"""
    sendgrid = play("sendgrid", tmp_path)
    items = batch(6)
    async with running(database, sendgrid) as service:
        for some in (items[1::2], items):
            (post,) = sendgrid.post_items(some)
            assert (await service.post("sendgrid", post)).status_code == 200
        assert {row["recipient"] for row in await service.events()} == {item["email"] for item in items}
        assert await service.count("events") == await service.count("event_ids") == 6


async def test_the_log_keeps_the_order_of_one_recipients_events(database: str, tmp_path: Path) -> None:
    """a batch known in part, its ids in no order: a recipient's new events stand in the log as the batch had them"""
    sendgrid = play("sendgrid", tmp_path)
    items = [item | {"email": f"user{number % 3}@one.test"} for number, item in enumerate(batch(60))]
    async with running(database, sendgrid) as service:
        for part in (items[25:30], items):
            (post,) = sendgrid.post_items(part)
            assert (await service.post("sendgrid", post)).status_code == 200
        rows = await service.events()
    for person in ("user0@one.test", "user1@one.test", "user2@one.test"):
        ids = [item["sg_event_id"] for item in items[25:30] + items[:25] + items[30:] if item["email"] == person]
        assert [row["provider_event_id"] for row in rows if row["recipient"] == person] == ids


async def test_an_operator_says_what_a_word_means(database: str, tmp_path: Path) -> None:
    """a source's own table of words wins over the provider's, for new words and known ones, and keeps the ids"""
    plain, own = (
        play("sendgrid", tmp_path),
        play("sendgrid", tmp_path, types={"new": "bounced", "dropped": "delivered"}),
    )
    items = [
        batch(1, word="new", run="n")[0] | {"reason": "550 5.1.1 no such user"},
        batch(1, word="dropped", run="d")[0] | {"reason": "Bounced Address"},
        batch(1, word="deferred", run="f")[0],
    ]
    found = []
    for one in (plain, own):
        async with running(database, one) as service:
            (post,) = one.post_items(items)
            assert (await service.post("sendgrid", post)).status_code == 200
            found.append(await service.events())
            await service.connection.execute("TRUNCATE events, event_ids")
    before, after = found
    assert [row["type"] for row in before] == ["unknown", "rejected", "deferred"]
    assert [row["type"] for row in after] == ["bounced", "delivered", "deferred"]
    assert [row["id"] for row in before] == [row["id"] for row in after]
    assert (after[0]["bounce_category"], after[0]["bounce_class"]) == ("hard", "invalid_recipient")
    assert (before[1]["reject_reason"], after[1]["reject_reason"]) == ("bounced", None)


async def test_fifty_concurrent_copies_are_one_event(database: str, tmp_path: Path) -> None:
    """fifty concurrent posts of one event end as exactly one row."""
    sendgrid = play("sendgrid", tmp_path)
    (post,) = sendgrid.post_items(batch(1))
    async with running(database, sendgrid) as service:
        answers = await asyncio.gather(*(service.post("sendgrid", post) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert await service.count("events") == 1


async def test_an_unknown_source_leaves_nothing_behind(database: str, tmp_path: Path) -> None:
    """an unknown source is a plain 404 and leaves nothing behind."""
    sendgrid = play("sendgrid", tmp_path)
    (post,) = sendgrid.post_items(batch(1))
    async with running(database, sendgrid) as service:
        for path in ("/webhooks/nobody", "/webhooks/", "/webhooks/sendgrid/x", "/webhooks/%00", "/elsewhere"):
            answer = await service.client.post(path, content=post.body, headers=dict(post.headers))
            assert answer.status_code == 404
        for table in ("events", "event_ids", "refused", "quarantine"):
            assert await service.count(table) == 0


async def test_set_up_probes_are_answered(database: str, tmp_path: Path) -> None:
    """HEAD, GET and OPTIONS on the webhook URL answer 200, as providers' consoles ask; other methods 405."""
    async with running(database, play("sendgrid", tmp_path)) as service:
        url = "/webhooks/sendgrid"
        assert (await service.client.get(url)).status_code == 200
        head = await service.client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        options = await service.client.options(
            url, headers={"WebHook-Request-Origin": "eventgrid.example", "WebHook-Request-Rate": "120"}
        )
        assert options.status_code == 200
        assert options.headers["webhook-allowed-origin"] == "eventgrid.example"
        assert options.headers["webhook-allowed-rate"] == "*"
        assert (await service.client.put(url)).status_code == 405
        assert (await service.client.get("/healthz")).text == "ok\n"
        assert (await service.client.get("/metrics")).status_code == 404


async def test_the_admin_listener_tells_readiness_and_metrics(database: str, tmp_path: Path) -> None:
    """readiness with reasons and the metrics are on the admin listener."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        (post,) = sendgrid.post_items(batch(2))
        await service.post("sendgrid", post)
        ready = await service.client.get(f"{service.admin_url}/readyz")
        assert ready.json() == {"ready": True, "parts": dict.fromkeys(("database", "partitions", "writer"), "ok")}
        metrics = (await service.client.get(f"{service.admin_url}/metrics")).text
    assert 'receiver_requests_total{outcome="stored",source="sendgrid"} 1.0' in metrics
    assert 'receiver_events_total{source="sendgrid",type="delivered"} 2.0' in metrics


# Bad input ---------------------------------------------------------------------------------------------------------


async def test_one_unreadable_item_is_quarantined_alone(database: str, tmp_path: Path) -> None:
    """one unreadable item of a batch is quarantined alone and the rest is stored."""
    sendgrid = play("sendgrid", tmp_path)
    first, last = batch(2)
    body = b"[%s,\r\n%s,\r\n%s]\r\n" % (json.dumps(first).encode(), b'"no event"', json.dumps(last).encode())
    async with running(database, sendgrid) as service:
        assert (await service.post("sendgrid", signed(sendgrid, body))).status_code == 200
        assert len(await service.events()) == 2
        (entry,) = await service.connection.fetch("SELECT * FROM quarantine")
    assert entry["kind"] == "item"
    assert service.vault.decrypt(entry["body"], context="quarantine") == b'"no event"'
    head = json.loads(service.vault.decrypt(entry["headers"], context="quarantine"))
    assert head["headers"]["content-type"] == "application/json"


async def test_an_authentic_body_that_cannot_be_read_is_kept_and_answered_as_success(
    database: str, tmp_path: Path
) -> None:
    """an authentic body that is no JSON is quarantined once, however often it is retried, and answered 200."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        for _ in range(3):
            answer = await service.post("sendgrid", signed(sendgrid, b"<html>not an event</html>"))
            assert answer.status_code == 200
        (entry,) = await service.connection.fetch("SELECT * FROM quarantine")
    assert entry["kind"] == "delivery"
    assert b"not an event" not in bytes(entry["body"])
    assert service.vault.decrypt(entry["body"], context="quarantine") == b"<html>not an event</html>"


async def test_a_batch_of_nothing_but_rubbish_is_one_entry(database: str, tmp_path: Path) -> None:
    """a thousand unreadable items are kept as one entry beside the event that could be read."""
    sendgrid = play("sendgrid", tmp_path)
    rubbish = (
        b"[" + b",".join(b"%d" % number for number in range(1000)) + b"," + json.dumps(batch(1)[0]).encode() + b"]"
    )
    async with running(database, sendgrid) as service:
        assert (await service.post("sendgrid", signed(sendgrid, rubbish))).status_code == 200
        endless = b"[" + b"{}," * 21_000 + b"{}]"
        assert (await service.post("sendgrid", signed(sendgrid, endless))).status_code == 200
        assert await service.count("events") == 1
        kinds = [row[0] for row in await service.connection.fetch("SELECT kind FROM quarantine")]
    assert kinds == ["delivery", "delivery"]


NASTY: Sequence[bytes] = (
    rb'"\u0000"',
    rb'"a\u0000b"',
    rb'"\ud800"',
    rb'"\udc00\ud800"',
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-1e400",
    b"1e-400000",
    b"9" * 5000,
    b"123456789012345678901234567890",
    b"99999999999999",
    b"-62135596801",
    b"253402300800",
    b'"9999-99-99"',
    b"[" * 100_000 + b"]" * 100_000,
    b"[" * 150 + b"]" * 150,
    b'"\xff\xfe"',
    b'"\x01"',
    b'"' + b"x" * 200_000 + b'"',
    b"{}",
    b"null",
)


@pytest.mark.parametrize("field", ["email", "timestamp", "event", "sg_message_id", "reason", "ip", "attempt", "custom"])
async def test_values_that_postgres_cannot_hold_cost_nobody_anything(database: str, tmp_path: Path, field: str) -> None:
    """NUL characters, lone surrogates, absurd numbers and dates never end as 5xx, and never cost a neighbour."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        for number, value in enumerate(NASTY):
            neighbours = batch(2, run=f"n{number}-")
            item = json.dumps(
                {**batch(1, word="bounce", run=f"v{number}")[0], "email": f"v{number}@one.test", field: "VALUE"}
            ).encode()
            item = item.replace(b'"VALUE"', value)
            body = b"[%s,%s,%s]" % (json.dumps(neighbours[0]).encode(), item, json.dumps(neighbours[1]).encode())
            answer = await service.post("sendgrid", signed(sendgrid, body))
            assert answer.status_code == 200, value[:40]
            found = await service.events("message_id LIKE $1", f"n{number}-_")
            assert len(found) == 2, value[:40]
        kept = await service.count("events") + await service.count("quarantine")
        assert kept >= len(NASTY) * 3 - 1  # two of the values may make one and the same unreadable item
        await service.connection.fetch("SELECT raw::jsonb, raw->>'email' FROM events")


async def test_a_row_that_postgres_refuses_is_set_aside_alone(database: str, tmp_path: Path) -> None:
    """a row that the database refuses is quarantined; those of the same batch and of other requests are stored."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        await service.connection.execute("ALTER TABLE events ADD CHECK (recipient <> 'user7@one.test')")
        posts = [sendgrid.post_items(batch(count, run=f"r{count}"))[0] for count in (20, 3, 4)]
        answers = await asyncio.gather(*(service.post("sendgrid", post) for post in posts))
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert await service.count("events") == 26
        (entry,) = await service.connection.fetch("SELECT * FROM quarantine")
    assert json.loads(service.vault.decrypt(entry["body"], context="quarantine"))["email"] == "user7@one.test"


async def test_a_fault_in_a_providers_file_costs_its_neighbours_nothing(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """an item whose reading nothing can be made of is quarantined; its neighbours, and other deliveries, are stored."""
    sendgrid = play("sendgrid", tmp_path)
    provider = sendgrid.source.provider

    class Faulty(type(provider)):  # type: ignore[misc]  # of the provider that was played
        def read(self, item: Item) -> Sequence[Reading]:
            readings: Sequence[Reading] = super().read(item)
            wrong: Any = 7
            return [msgspec.structs.replace(one, recipient=wrong) if "user7@" in item.text else one for one in readings]

    monkeypatch.setattr(provider, "__class__", Faulty)
    async with running(database, sendgrid) as service:
        posts = [sendgrid.post_items(batch(count, run=f"r{count}"))[0] for count in (20, 3, 4, 1, 1, 1)]
        answers = await asyncio.gather(*(service.post("sendgrid", post) for post in posts))
        assert {answer.status_code for answer in answers} == {200}
        assert await service.count("events") == 19 + 3 + 4 + 1
        (entry,) = await service.connection.fetch("SELECT kind, why, body FROM quarantine")
    assert (entry["kind"], entry["why"]) == ("item", "a fault of ours: TypeError")
    assert json.loads(service.vault.decrypt(entry["body"], context="quarantine"))["email"] == "user7@one.test"


# Refusals ----------------------------------------------------------------------------------------------------------


async def refused(service: Running, count: int = 1) -> list[asyncpg.Record]:
    async def rows() -> list[asyncpg.Record]:
        found = await service.connection.fetch("SELECT * FROM refused ORDER BY id")
        return found if len(found) >= count else []

    return await until(rows)


async def test_a_forged_request_is_refused_and_touches_no_event_table(database: str, tmp_path: Path) -> None:
    """a request signed with another key is refused, sampled with its reason, and touches no event table."""
    sendgrid, other = play("sendgrid", tmp_path), play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        (post,) = other.post_items(batch(1))
        assert (await service.post("sendgrid", post)).status_code == 401
        (row,) = await refused(service)
        assert await service.count("events") + await service.count("event_ids") == 0
    assert row["reason"] == "wrong_key"
    assert b"user0@one.test" not in bytes(row["body"])
    assert b"user0@one.test" in service.vault.decrypt(row["body"], context="refused")


async def test_a_body_that_a_proxy_rewrote_gets_its_own_reason(database: str, tmp_path: Path) -> None:
    """a body that was decoded and encoded again on the way is refused with the reason body_changed."""
    sendgrid = play("sendgrid", tmp_path)
    (post,) = sendgrid.post_items(batch(2))
    changed = json.dumps(json.loads(post.body), indent=2).encode()
    compact = json.dumps(json.loads(post.body), separators=(",", ":")).encode()
    async with running(database, sendgrid) as service:
        original = signed(sendgrid, compact)
        answer = await service.post("sendgrid", Post(headers=original.headers, body=changed))
        assert answer.status_code == 401
        (row,) = await refused(service)
    assert row["reason"] == "body_changed"
    assert "encoded the JSON again" in row["detail"]


async def test_the_sample_of_refused_requests_is_bounded(database: str, tmp_path: Path) -> None:
    """a flood of forged requests is counted but only a sample of it is kept."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        for _ in range(60):
            assert (await service.client.post("/webhooks/sendgrid", content=b"[]")).status_code == 401
        await refused(service, 10)
        metrics = (await service.client.get(f"{service.admin_url}/metrics")).text
        assert 10 <= await service.count("refused") < 30
    assert 'receiver_refused_total{reason="missing_header",source="sendgrid"} 60.0' in metrics


async def test_an_authentic_but_stale_delivery_is_refused_and_kept(database: str, tmp_path: Path) -> None:
    """a rightly signed delivery beyond the window makes no event, is refused, and is kept in quarantine."""
    sendgrid = play("sendgrid", tmp_path)
    old = datetime.now(UTC) - timedelta(days=3)
    post = sendgrid.source.provider.simulation.post(batch(1), sendgrid.keys, old)[0]
    async with running(database, sendgrid) as service:
        assert [(await service.post("sendgrid", post)).status_code for _ in range(2)] == [401, 401]
        assert await service.count("events") == 0
        (entry,) = await service.connection.fetch("SELECT kind, why FROM quarantine")
    assert entry["kind"] == "stale"


# Bodies ------------------------------------------------------------------------------------------------------------


async def test_content_encodings(database: str, tmp_path: Path) -> None:
    """gzip and deflate are undone before the signature is checked; a bomb, two encodings and rubbish are refused."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:

        async def send(post: Post, body: bytes, encoding: str) -> int:
            headers = {**post.headers, "Content-Encoding": encoding}
            return (await service.client.post("/webhooks/sendgrid", content=body, headers=headers)).status_code

        (one,), (two,) = sendgrid.post_items(batch(1, run="g")), sendgrid.post_items(batch(1, run="d"))
        assert await send(one, gzip.compress(one.body), "gzip") == 200
        assert await send(two, zlib.compress(two.body), "deflate") == 200
        assert await service.count("events") == 2
        bomb = gzip.compress(b"[" + b" " * (64 << 20) + b"]")
        assert await send(one, bomb, "gzip") == 413
        assert await send(one, gzip.compress(gzip.compress(one.body)), "gzip, gzip") == 400
        assert await send(one, one.body, "gzip") == 400
        assert await send(one, gzip.compress(one.body)[:-10], "gzip") == 400
        assert {row["reason"] for row in await refused(service, 4)} == {"too_large", "bad_encoding"}


async def test_a_bomb_is_never_inflated(database: str, tmp_path: Path) -> None:
    """a compressed body that would grow to 64 MB costs about the limit in memory, and is refused."""
    sendgrid = play("sendgrid", tmp_path, max_body=1 << 20)
    bombs = {"gzip": gzip.compress(bytes(64 << 20)), "deflate": zlib.compress(bytes(64 << 20))}
    async with running(database, sendgrid) as service:
        tracemalloc.start()
        try:
            for encoding, bomb in bombs.items():
                answer = await service.post("sendgrid", Post(headers={"Content-Encoding": encoding}, body=bomb))
                assert answer.status_code == 413
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 16 << 20


async def test_a_body_over_the_limit_is_refused(database: str, tmp_path: Path) -> None:
    """a body over the limit is refused by its announced length, and while it streams in without one."""
    sendgrid = play("sendgrid", tmp_path, max_body=1000)
    async with running(database, sendgrid) as service:

        async def chunks() -> Any:
            for _ in range(20):
                yield b" " * 100

        assert (await service.client.post("/webhooks/sendgrid", content=b" " * 1001)).status_code == 413
        assert (await service.client.post("/webhooks/sendgrid", content=chunks())).status_code == 413


async def test_a_body_that_never_ends_is_given_up(database: str, tmp_path: Path) -> None:
    """a client that announces a body and does not send it is answered 408 after the time-out."""
    async with running(database, play("sendgrid", tmp_path), body_timeout=0.2) as service:
        url = urlsplit(service.url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(b"POST /webhooks/sendgrid HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n[")
        assert b"408" in await reader.readline()
        writer.close()


async def test_a_delivery_of_more_rows_than_a_transaction_takes(database: str, tmp_path: Path) -> None:
    """a delivery of 5,600 events spans several transactions and is answered after the last; a row of a later one that
    the database refuses is quarantined alone
    """
    sendgrid = play("sendgrid", tmp_path, max_body=4 << 20)
    body = json.dumps(batch(5600)).encode()
    async with running(database, sendgrid) as service:
        await service.connection.execute("ALTER TABLE events ADD CHECK (recipient <> 'user5500@one.test')")
        assert (await service.post("sendgrid", signed(sendgrid, body))).status_code == 200
        assert await service.count("events") == 5599
        transactions = await service.connection.fetchval("SELECT count(DISTINCT txid) FROM events")
        (entry,) = await service.connection.fetch("SELECT kind, body FROM quarantine")
    assert transactions >= 2
    assert entry["kind"] == "item"
    assert json.loads(service.vault.decrypt(entry["body"], context="quarantine"))["email"] == "user5500@one.test"


# Trouble with the database -----------------------------------------------------------------------------------------


async def test_one_stuck_peer_delays_nobody_else(database: str, tmp_path: Path) -> None:
    """while a foreign transaction holds one id, only the request with that id waits."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        (first,) = sendgrid.post_items(batch(1, run="stuck"))
        assert (await service.post("sendgrid", first)).status_code == 200
        id_ = (await service.events())[0]["id"]
        await service.connection.execute("DELETE FROM events")
        await service.connection.execute("DELETE FROM event_ids")
        peer = await asyncpg.connect(database)
        try:
            transaction = peer.transaction()
            await transaction.start()
            await peer.execute("INSERT INTO event_ids (id) VALUES ($1)", id_)
            stuck = asyncio.create_task(service.post("sendgrid", first))
            others = [sendgrid.post_items(batch(2, run=f"o{number}"))[0] for number in range(10)]
            answers = await asyncio.gather(*(service.post("sendgrid", other) for other in others))
            assert {answer.status_code for answer in answers} == {200}
            assert await service.count("events") == 20
            assert not stuck.done()
            await transaction.rollback()
            assert (await stuck).status_code == 200
            assert await service.count("events") == 21
        finally:
            await peer.close()


async def test_ingest_makes_a_partition_that_is_missing(database: str, tmp_path: Path) -> None:
    """an event whose month has no partition makes ingest create it."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        names = await service.connection.fetch(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
        )
        for (name,) in names:
            await service.connection.execute(f"DROP TABLE {name}")
        (post,) = sendgrid.post_items(batch(1))
        assert (await service.post("sendgrid", post)).status_code == 200
        assert await service.count("events") == 1


def test_a_taken_port_is_named() -> None:
    """a port that is taken is named in a clear error."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"cannot listen on 127.0.0.1:{port}"):
            bind("127.0.0.1", port, "webhooks")


async def test_one_mailgun_token_brings_one_event(database: str, tmp_path: Path) -> None:
    """a leaked Mailgun signature cannot carry a second event, whatever its body and time say."""
    mailgun = play("mailgun", tmp_path)
    (post,) = mailgun.posts(EventType.DELIVERED, "ann@one.test")
    forged = json.loads(post.body)
    forged["event-data"] |= {"recipient": "bob@two.test", "timestamp": forged["event-data"]["timestamp"] - 3600}
    async with running(database, mailgun) as service:
        assert (await service.post("mailgun", post)).status_code == 200
        forgery = Post(headers=post.headers, body=json.dumps(forged).encode())
        assert (await service.post("mailgun", forgery)).status_code == 200
        rows = await service.events()
    assert [row["recipient"] for row in rows] == ["ann@one.test"]
