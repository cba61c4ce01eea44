"""Erasing a person: gone from every table in every spelling, others untouched, nothing comes back, and it is proven."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest

from receiver import Context, Event, handler
from receiver.event import EventType
from receiver.store import erasing
from receiver.store.searching import OURS
from receiver.vault import Vault
from tests.cli import Receiver
from tests.service import SECRET_KEY, play, running
from tests.test_mentions import SPELLINGS
from tests.waiting import until
from tests.workers import all_read, prepared
from tests.workers import running as working

ANNA: Final = "anna.o'neil+news@example.com"
OLD: Final = "anna@before.example"
BOB: Final = "bob@example.com"
NOW: Final = datetime.now(UTC)
SEALED_COLUMNS: Final = {"headers", "body", "answer"}
VAULT: Final = Vault(SECRET_KEY)
HASH: Final = VAULT.address_hash(ANNA)


def seal(table: str, value: object) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return VAULT.encrypt(text.encode(), context=table)


async def quarantine(sql: asyncpg.Connection, kind: str, body: object) -> int:
    head = seal("quarantine", {"headers": {}, "query": ""})
    sealed = seal("quarantine", body)
    await insert(
        sql, "quarantine", source="shop", provider="sendgrid", kind=kind, why="unreadable", fingerprint=sealed[:32],
        size=1, headers=head, body=sealed, accepted_at=NOW,
    )  # fmt: skip
    found: int = await sql.fetchval("SELECT max(id) FROM quarantine")
    return found


async def body_of(sql: asyncpg.Connection, id_: int) -> Any:
    sealed = await sql.fetchval("SELECT body FROM quarantine WHERE id = $1", id_)
    return None if sealed is None else json.loads(VAULT.decrypt(sealed, context="quarantine"))


async def receive(database: str, directory: Path) -> None:
    """Events of Anna and Bob, one report about both, and mail that Anna wrote."""
    shop, ses = play("sendgrid", directory, name="shop"), play("ses", directory, name="ses")
    report: Any = ses.source.provider.simulation.sample(ses.occurrences(EventType.BOUNCED, BOB)[0])
    bounced = report["bounce"]["bouncedRecipients"]
    bounced.append(json.loads(json.dumps(bounced[0]).replace(BOB, ANNA)))
    async with running(database, shop, ses) as service:
        for type_ in (EventType.CLICKED, EventType.BOUNCED):
            for post in shop.posts(type_, ANNA, BOB, "joanna.o'neil+news@example.com"):
                assert (await service.post("shop", post)).status_code == 200
        for post in shop.posts(EventType.DELIVERED, OLD):
            assert (await service.post("shop", post)).status_code == 200
        for post in ses.post_items([report]):
            assert (await service.post("ses", post)).status_code == 200
        await insert(
            service.connection, "events", id=uuid4(), occurred_at=NOW, type="inbound", source="shop", shard=0,
            provider="sendgrid", provider_type="inbound", recipient="team@example.com", sender=ANNA, subject="Help",
            raw=json.dumps({"from": ANNA, "text": "I live in Elm Street"}),
        )  # fmt: skip


async def insert(sql: asyncpg.Connection, table: str, **values: Any) -> None:
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    await sql.execute(
        f"INSERT INTO {table} ({', '.join(values)}) OVERRIDING SYSTEM VALUE VALUES ({places})", *values.values()
    )


async def plant(sql: asyncpg.Connection) -> dict[str, int]:
    """Anna in every kind of table, in every spelling; returns what is in quarantine, by name."""
    await plant_contacts(sql, list(SPELLINGS.values()))
    await plant_work(sql, list(SPELLINGS.values()))
    item = {"email": ANNA, "from": "team@example.com", "ip": "192.0.2.1"}
    return {
        "alone": await quarantine(sql, "item", item),
        "form": await quarantine(sql, "delivery", "to=anna.o'neil%2Bnews%40example.com&from=team%40example.com"),
        "batch": await quarantine(sql, "delivery", [item, {"email": BOB, "ip": "192.0.2.2"}]),
        "bob": await quarantine(sql, "item", {"email": BOB}),
    }


async def plant_contacts(sql: asyncpg.Connection, texts: Sequence[str]) -> None:
    bob, old = VAULT.address_hash(BOB), VAULT.address_hash(OLD)
    knows = json.dumps({"knows": [ANNA, BOB]})
    await insert(sql, "contacts", id=900, address=ANNA, address_hash=HASH, name="Anna", attributes=knows)
    await insert(sql, "contacts", address=BOB, address_hash=bob, name="Bob", attributes=knows)
    await insert(sql, "contact_addresses", contact_id=900, address=OLD, address_hash=old, who="me", reason="moved")
    await insert(sql, "subscriptions", address_hash=HASH, topic="a", subscribed_at=NOW)
    await insert(sql, "subscriptions", address_hash=HASH, topic="b", unsubscribed_at=NOW)
    await insert(sql, "subscriptions", address_hash=old, topic="a", unsubscribed_at=NOW)
    said = {"occurred_at": NOW, "action": "subscribed", "method": "page", "detail": json.dumps({"by": texts[0]})}
    await insert(
        sql, "consent_log", address_hash=HASH, address=ANNA, source="page", wording=f"I, {ANNA}, agree",
        client_ip="192.0.2.9", **said,
    )  # fmt: skip
    await insert(
        sql, "consent_log", address_hash=bob, address=BOB, source="api", wording="Yes", client_ip="192.0.2.8", **said
    )
    await insert(
        sql, "suppressions", address_hash=HASH, reason="complaint", scope="marketing", since=NOW, last_at=NOW,
        source="shop", recipient_domain="example.com", note=texts[3],
    )  # fmt: skip
    await insert(
        sql, "bounces", address_hash=HASH, message="m", bounce_class="mailbox_full", at=NOW, source="shop",
        event_id=uuid4(),
    )  # fmt: skip
    await insert(sql, "confirmations", id=uuid4(), address_hash=HASH, topic="a", requested_at=NOW, expires_at=NOW)
    await insert(sql, "segments", name="s", filter=json.dumps({"address": ["in", ANNA, BOB]}))
    refused = json.dumps({"refused": [{"line": 1, "text": texts[2]}]})
    await insert(sql, "imports", file=f"{ANNA}.csv", fingerprint=b"", options="{}", report=refused, who="me")


async def plant_work(sql: asyncpg.Connection, texts: Sequence[str]) -> None:
    send = {"template": "t", "stream": "marketing", "handler": "h"}
    friends = json.dumps({"friends": [{"mail": ANNA}, {"mail": "eve@x.test"}]})
    await insert(sql, "sends", key="a", recipient=ANNA, **send)
    await insert(sql, "sends", key="b", recipient=BOB, data=friends, **send)
    failed = {"handler": "h", "error_type": "E"}
    for recipient in (ANNA, BOB):
        event = await sql.fetchrow("SELECT id, received_at FROM events WHERE recipient = $1", recipient)
        assert event is not None
        copy = {"recipient": recipient, "type": "clicked", "url": "https://x", "raw": json.dumps({"to": [ANNA, BOB]})}
        await insert(
            sql, "dead_letters", event_id=event["id"], event=json.dumps(copy), event_type="clicked", source="shop",
            attempts=1, error=texts[1], traceback=texts[8], **failed,
        )  # fmt: skip
        await insert(sql, "attempts", event_id=event["id"], attempt=1, error=texts[4], worker="w", **failed)
        await insert(
            sql, "retries", handler="h", event_id=event["id"], event_received_at=event["received_at"], shard=1,
            cause="failed", next_at=NOW, error=texts[5],
        )  # fmt: skip
    for text in texts:
        await insert(sql, "audit_log", who="me", action="x", subject=text)
    await insert(sql, "alerts", key="k", kind="k", severity="warning", text=f"it was {texts[10]}")
    await insert(sql, "handlers", name="h", breaker_error=texts[6])
    head = seal("refused", {"headers": {}, "query": f"e={texts[4]}"})
    request = {"source": "shop", "detail": "x", "size": 1, "headers": head, "refused_at": NOW}
    await insert(sql, "refused", reason="wrong_key", body=seal("refused", "{}"), **request)
    await insert(sql, "refused", reason="stale", body=seal("refused", {"to": BOB}), **request)
    await insert(sql, "api_keys", id=900, name="k", start="k", hash=b"", scopes=[], created_by="me")
    answer = seal("api_requests", {"address": ANNA})
    await insert(sql, "api_requests", key_id=900, idempotency_key="i", fingerprint=b"", status=200, answer=answer)


async def remains(sql: asyncpg.Connection) -> list[str]:
    """Where Anna is left, by other means than those of the command: everything as text, decrypted and decoded."""
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    found = []
    for (table,) in await sql.fetch(tables):
        for row in await sql.fetch(f"SELECT * FROM {table}"):
            found += [f"{table}.{name}: {value}" for name, value in row.items() if betrays(table, name, value)]
    return found


def betrays(table: str, name: str, value: object) -> bool:
    text = str(value)
    if isinstance(value, bytes) and table in {"quarantine", "refused", "api_requests"} and name in SEALED_COLUMNS:
        text = VAULT.decrypt(value, context=table).decode()
    encoded = base64.b64encode(f"To: {ANNA}".encode()).decode()[8:28]
    plain = text.lower().replace("joanna", "jo")
    return "anna" in plain or "elm street" in plain or encoded in text or "616e6e61" in text


async def test_a_person_is_gone(database: str, sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path) -> None:
    """who was in every table in every spelling is in none, and it is proven; others who stood beside them stay; what
    keeps them from being mailed stays; a second time changes nothing"""
    await receive(database, tmp_path)
    kept = await plant(sql)
    dry = await receiver("contacts", "erase", ANNA, "--dry-run")
    assert (dry.code, await sql.fetchval("SELECT count(*) FROM erasures")) == (0, 0)
    assert "nobody to ask" in (await receiver("contacts", "erase", OLD)).err

    done = await receiver("contacts", "erase", "Anna <Anna.O'Neil+News@Example.com>", "--yes", "--json")
    assert done.code == 0, done.err
    proof = [row for row in done.rows if row["part"] == "proof"]
    assert all(row["hits"] == row["unread"] == 0 for row in proof)
    assert {f"public.{name}" for name in OURS if name != "events"} <= {row["table"] for row in proof}
    assert await remains(sql) == []
    assert ANNA not in done.out
    assert "anna" not in str(await sql.fetch("SELECT * FROM audit_log WHERE action = 'erase'"))

    assert await sql.fetchval("SELECT count(*) FROM events WHERE attribution = 'erased'") == 5  # Anna's four, and hers
    assert await sql.fetchval("SELECT count(*) FROM events WHERE recipient LIKE 'joanna%' AND raw IS NOT NULL") == 2
    bobs = await sql.fetch("SELECT raw, raw_altered FROM events WHERE recipient = $1 ORDER BY position", BOB)
    assert [(BOB in row["raw"], row["raw_altered"]) for row in bobs] == [(True, False), (True, False), (True, True)]
    assert await sql.fetchval("SELECT attributes FROM contacts WHERE address = $1", BOB) == json.dumps({"knows": [BOB]})
    assert await sql.fetchval("SELECT data FROM sends") == json.dumps({"friends": [{"mail": "eve@x.test"}]})
    assert (
        await sql.fetchval("SELECT event->>'recipient' FROM dead_letters WHERE event->>'recipient' IS NOT NULL") == BOB
    )
    bob = await sql.fetchrow("SELECT address, host(client_ip), wording FROM consent_log WHERE address IS NOT NULL")
    assert bob is not None
    assert tuple(bob) == (BOB, "192.0.2.8", "Yes")
    assert await body_of(sql, kept["bob"]) == {"email": BOB}
    assert await body_of(sql, kept["batch"]) == [{"email": BOB, "ip": "192.0.2.2"}]
    assert [await body_of(sql, kept[name]) for name in ("alone", "form")] == [None, None]

    left = await sql.fetchrow("SELECT * FROM suppressions")
    assert left is not None
    assert (left["address_hash"], left["active"], left["recipient_domain"]) == (HASH, True, None)
    topics = await sql.fetch("SELECT topic FROM subscriptions WHERE address_hash = $1", HASH)
    assert [row[0] for row in topics] == ["b"]
    assert await sql.fetchval("SELECT reason FROM sendable($1)", HASH) == "erased"
    assert await sql.fetchval("SELECT count(*) FROM erasures") == 2

    again = await receiver("contacts", "erase", ANNA, "--yes", "--json")
    assert again.code == 0, again.err
    assert [row for row in again.rows if row["part"] == "done"] == []


async def test_the_proof_finds(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """what could not be taken out (a team's own table, a row that must not change, what another key has encrypted) is
    found and named, and the command fails"""
    await sql.execute("CREATE SCHEMA crm; CREATE TABLE crm.people (id int PRIMARY KEY, notes json)")
    await sql.execute(
        "INSERT INTO crm.people VALUES (1, $1)", json.dumps({"mail": "anna.o'neil+news\u0040example.com"})
    )
    assert (await receiver("contacts", "erase", BOB, "--yes")).code == 0
    found = await receiver("contacts", "erase", ANNA, "--yes")
    assert found.code == 1
    assert "crm.people has 1 rows that name the person, which is not ours" in found.err
    assert await sql.fetchval("SELECT count(*) FROM crm.people") == 1
    await sql.execute("DROP SCHEMA crm CASCADE")
    await insert(
        sql, "consent_log", occurred_at=NOW, address_hash=b"", action="lifted", source=f"import:{ANNA}", method="cli"
    )
    assert "public.consent_log has 1 rows" in (await receiver("contacts", "erase", ANNA, "--yes")).err
    await sql.execute("TRUNCATE consent_log")
    other = Vault("another secret key, long enough to be one").encrypt(b"{}", context="quarantine")
    await sql.execute("UPDATE quarantine SET body = $1 WHERE id = $2", other, await quarantine(sql, "item", {}))
    assert (
        "quarantine (decrypted) has 1 rows under other secret keys"
        in (await receiver("contacts", "erase", ANNA, "--yes")).err
    )


async def test_events_that_are_being_stored(
    database: str, sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a transaction that looked for tombstones before there was one is waited for, and its events are cleaned; later
    ones are stored anonymous"""
    shop = play("sendgrid", tmp_path, name="shop")
    await sql.execute("""
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN WHILE NOT pg_try_advisory_xact_lock_shared(7) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NULL; END';
        CREATE TRIGGER dawdle AFTER INSERT ON event_ids FOR EACH STATEMENT EXECUTE FUNCTION dawdle()
    """)
    waited: list[object] = []
    look = erasing.still_open

    async def noted(*arguments: Any) -> asyncpg.Record | None:
        found = await look(*arguments)
        waited.append(found)
        return found

    monkeypatch.setattr(erasing, "still_open", noted)
    async with running(database, shop) as service:
        await sql.execute("SELECT pg_advisory_lock(7)")
        (post,) = shop.posts(EventType.CLICKED, ANNA)
        posting = asyncio.create_task(service.post("shop", post))

        async def storing() -> bool:
            return bool(
                await sql.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE relation = 'event_ids'::regclass AND mode = 'RowExclusiveLock'"
                )
            )

        await until(storing)
        erased = asyncio.ensure_future(receiver("contacts", "erase", ANNA, "--yes"))

        async def waits_or_ended() -> bool:
            return erased.done() or any(one is not None for one in waited)

        await until(waits_or_ended)
        await sql.execute("SELECT pg_advisory_unlock(7)")
        assert (await posting).status_code == 200
        for later in shop.posts(EventType.OPENED, ANNA):
            assert (await service.post("shop", later)).status_code == 200
        ended = await erased
        assert ended.code == 0, ended.err
        rows = await service.events()
        assert [(row["type"], row["recipient"], row["attribution"], row["raw"]) for row in rows] == [
            ("clicked", None, "erased", None), ("opened", None, "erased", None),
        ]  # fmt: skip


async def test_what_a_handler_has_in_hand(
    database: str, sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path
) -> None:
    """a handler that has read the person's event before and writes after the erasure does not bring them back"""
    seen: list[str | None] = []
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def remember(event: Event, ctx: Context) -> None:
        seen.append(event.recipient)
        if event.recipient is not None:
            reached.set()
            await go_on.wait()
            await ctx.contacts.update(event.recipient, seen=True)

    remembering = handler(name="remembering")(remember)
    shop = play("sendgrid", tmp_path, name="shop")
    await prepared(sql, [remembering])
    async with running(database, shop) as service, working(database, remembering, lease=30.0):
        (post,) = shop.posts(EventType.CLICKED, ANNA)
        assert (await service.post("shop", post)).status_code == 200
        await asyncio.wait_for(reached.wait(), 30)
        ended = await receiver("contacts", "erase", ANNA, "--yes")
        assert ended.code == 0, ended.err
        go_on.set()
        await all_read(sql)
    assert seen == [ANNA, None]
    assert await sql.fetchval("SELECT count(*) FROM contacts") == 0


async def test_coming_back(database: str, sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path) -> None:
    """who signs up again is a contact as everybody is, whose events are stored whole; the complaint of before counts"""
    await insert(sql, "topics", name="news", title="News")
    await insert(
        sql,
        "suppressions",
        address_hash=HASH,
        reason="complaint",
        scope="marketing",
        since=NOW,
        last_at=NOW,
        source="s",
    )
    assert (await receiver("contacts", "erase", ANNA, "--yes")).code == 0
    came = await receiver("contacts", "subscribe", ANNA, "news", "--wording", "Yes", "--json")
    assert [(row["state"], row["reason"]) for row in came.rows] == [("subscribed", "complaint")]
    shop = play("sendgrid", tmp_path, name="shop")
    async with running(database, shop) as service:
        for post in shop.posts(EventType.CLICKED, ANNA):
            assert (await service.post("shop", post)).status_code == 200
        (event,) = await service.events()
    assert (event["recipient"], event["attribution"], event["raw"] is None) == (ANNA, None, False)


async def test_what_comes_into_quarantine_later(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """--again takes everybody who was erased before out of what could not be read since, and nobody else"""
    assert (await receiver("contacts", "erase", ANNA, "--yes")).code == 0
    batch = await quarantine(sql, "item", [{"email": ANNA}, {"email": BOB}])
    alone = await quarantine(sql, "item", {"email": SPELLINGS["JSON escape"]})
    again = await receiver("contacts", "erase", "--again", "--json")
    assert [(row["table"], row["rows"]) for row in again.rows] == [("quarantine", 1), ("quarantine", 1)]
    assert [await body_of(sql, batch), await body_of(sql, alone)] == [[{"email": BOB}], None]
    assert (await receiver("contacts", "erase", "--again", "--json")).rows == []
    assert (await receiver("contacts", "erase")).code == 2


async def test_everything_about_a_person(
    database: str, sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path
) -> None:
    """export-person hands over what is held under all their addresses, decrypted, and nobody else's part of it"""
    await receive(database, tmp_path)
    await plant(sql)
    out = tmp_path / "anna.json"
    assert (await receiver("contacts", "export-person", OLD, "--out", str(out))).code == 0
    assert out.stat().st_mode & 0o077 == 0
    text = out.read_text()
    document = json.loads(text)
    assert (document["form"], document["addresses"]) == (1, [ANNA, OLD])
    assert document["contact"]["name"] == "Anna"
    assert [one["address"] for one in document["contact"]["addresses_before"]] == [OLD]
    counts = {name: len(rows) for name, rows in document.items() if isinstance(rows, list) and name != "addresses"}
    assert counts == {
        "subscriptions": 3, "consent_log": 1, "suppressions": 1, "bounces": 1, "confirmations": 1, "erasures": 0,
        "events": 4, "sends": 1, "dead_letters": 1, "attempts": 1, "quarantine": 3, "refused": 2, "api_requests": 1,
    }  # fmt: skip
    assert all(ANNA in json.dumps(one["raw"]) or OLD in json.dumps(one["raw"]) for one in document["events"])
    assert BOB not in json.dumps([document["events"], document["quarantine"], document["dead_letters"]])
    assert await sql.fetchval("SELECT count(*) FROM audit_log WHERE action = 'export-person'") == 1
