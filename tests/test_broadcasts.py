"""Broadcasts: everybody who may get one gets it once, piece by piece, until somebody stops it."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from receiver.sending import broadcasts
from receiver.sending.accounts import bind_accounts
from receiver.sending.running import sender_of
from receiver.settings import read_settings
from receiver.store import consent
from receiver.store.consent import Statement
from tests.cli import Receiver, command_for
from tests.people import VAULT, people
from tests.pgbouncer import through
from tests.smtp_peer import ACCOUNT, Peer, smtp_peer
from tests.workers import value

CONFIG = 'public_url = "https://mail.shop.example"\n' + ACCOUNT
SALE = ("--template", "sale", "--topic", "news")


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with smtp_peer() as one:
        yield one


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with people(database) as connection:
        yield connection


@pytest.fixture
def receiver(
    database: str, peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Receiver:
    (tmp_path / "receiver.toml").write_text(CONFIG.format(port=peer.port))
    (tmp_path / "templates" / "sale").mkdir(parents=True)
    (tmp_path / "templates" / "sale" / "subject.txt").write_text("A sale for {{ contact.attributes.plan }}")
    (tmp_path / "templates" / "sale" / "body.txt").write_text("{{ unsubscribe_url }}")
    monkeypatch.setattr(broadcasts, "LOOK", 10)
    monkeypatch.setattr(broadcasts, "AHEAD", 15)
    monkeypatch.setattr("receiver.sending.sender.CHORES", 0.2)
    return command_for(database, tmp_path, capsys, monkeypatch)


async def subscribers(sql: asyncpg.Connection, count: int, *, first: int = 0) -> list[str]:
    """Contacts with a plan, all subscribed to news; every second one has a tag."""
    found = [f"to{number}@example.com" for number in range(first, first + count)]
    await sql.executemany(
        'INSERT INTO contacts (address, address_hash, tags, attributes) VALUES ($1, $2, $3, \'{"plan": "free"}\')',
        [(one, VAULT.address_hash(one), ["buyer"] if n % 2 else []) for n, one in enumerate(found)],
    )
    said = [
        Statement(
            address_hash=VAULT.address_hash(one), address=one, action="subscribed", at=datetime.now(UTC),
            source="test", method="api", topic="news",
        )
        for one in found
    ]  # fmt: skip
    await consent.record(sql, said)
    return found


@asynccontextmanager
async def sending(database: str) -> AsyncIterator[None]:
    """The service's sender, as the configuration says."""
    settings, _ = read_settings(None)
    sender = sender_of(settings, bind_accounts(settings), VAULT, through(database))
    assert sender is not None
    stop = asyncio.Event()
    task = asyncio.create_task(sender.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def filled(database: str, times: int = 1) -> None:
    accounts = bind_accounts(read_settings(None)[0])
    async with asyncpg.create_pool(database, min_size=1, max_size=3) as pool:
        await asyncio.gather(*(broadcasts.fill(pool, accounts) for _ in range(times)))


async def test_everybody_gets_it_once(receiver: Receiver, sql: asyncpg.Connection, database: str, peer: Peer) -> None:
    """who may be mailed gets it once, with a way to leave, never more of it waiting than are allowed to"""
    addresses = await subscribers(sql, 40)
    await sql.execute(
        "INSERT INTO suppressions (address_hash, reason, scope, since, last_at, source) "
        "VALUES ($1, 'hard_bounce', 'all', now(), now(), 'test')",
        VAULT.address_hash(addresses[0]),
    )
    await sql.execute("INSERT INTO contacts (address, address_hash) VALUES ('other@example.com', '\\x00')")
    tried = await receiver("broadcast", "start", "spring", *SALE, "--per-minute", "6000", "--dry-run")
    assert "to to1@example.com: A sale for free\n  https://example.com/unsubscribe\n" in tried.out
    assert tried.err.startswith("sale to 39 of news\n")
    assert (await receiver("broadcast", "start", "spring", *SALE, "--yes")).code == 0
    again = await receiver("broadcast", "start", "spring", *SALE, "--yes")
    assert (again.code, "there is a broadcast spring already" in again.err) == (1, True)
    await filled(database, times=3)
    assert await sql.fetchval("SELECT count(*) FROM sends") == 15
    async with sending(database):
        await value(sql, "SELECT state FROM broadcasts", "done")
        await value(sql, "SELECT count(*) FROM sends WHERE state = 'sent'", 39)
    assert sorted(str(mail["To"]) for mail in peer.taken) == sorted(addresses[1:])
    assert {mail["List-Unsubscribe-Post"] for mail in peer.taken} == {"List-Unsubscribe=One-Click"}
    assert {mail["Subject"] for mail in peer.taken} == {"A sale for free"}
    (shown,) = (await receiver("broadcast", "show", "spring", "--json")).rows
    assert (shown["expected"], shown["queued"], shown["messages"]) == (39, 39, {"sent": 39})
    assert re.search(r"messages +39 sent\n", (await receiver("broadcast", "show", "spring")).out)


async def test_a_segment_at_a_pace(receiver: Receiver, sql: asyncpg.Connection, database: str, tmp_path: Path) -> None:
    """a dry run changes nothing; only the segment gets it, evenly spaced, and no further ahead than two minutes"""
    addresses = await subscribers(sql, 30)
    (tmp_path / "buyers.json").write_text('{"tag": "buyer"}')
    assert (await receiver("segments", "save", "buyers", "./buyers.json")).code == 0
    options = (*SALE, "--segment", "buyers", "--per-minute", "5", "--at", "1m")
    tried = await receiver("broadcast", "start", "paced", *options, "--dry-run")
    assert ("sale to 15 of news" in tried.err, "about 3 minutes" in tried.err) == (True, True)
    assert await sql.fetchval("SELECT count(*) FROM broadcasts") == 0
    assert (await receiver("broadcast", "start", "paced", *options, "--yes")).code == 0
    await filled(database)
    await filled(database)
    rows = await sql.fetch("SELECT recipient, not_before FROM sends ORDER BY not_before")
    assert [row["recipient"] for row in rows] == addresses[1 : 2 * len(rows) : 2]
    assert {later["not_before"] - row["not_before"] for row, later in pairwise(rows)} == {timedelta(seconds=12)}
    assert 4 <= len(rows) <= 6  # of the minute that is left of the two
    assert rows[0]["not_before"] > datetime.now(UTC)


async def test_it_is_stopped(
    receiver: Receiver, sql: asyncpg.Connection, database: str, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a paused broadcast sends nothing while other mail goes out; cancelled, it never does, however much of it waits"""
    monkeypatch.setattr("receiver.store.send_list.PIECE", 4)
    await subscribers(sql, 20)
    assert (await receiver("broadcast", "start", "wrong", *SALE, "--yes")).code == 0
    await filled(database)
    assert (await receiver("broadcast", "pause", "wrong", "--why", "the price")).code == 0
    assert "is paused" in (await receiver("broadcast", "pause", "wrong", "--why", "the price")).err
    await sql.execute(
        "INSERT INTO sends (key, recipient, template, stream, handler, message) "
        "VALUES ('reset', 'ann@example.com', '', 'transactional', 'test', $1)",
        '{"subject": "Reset", "text": "x"}',
    )
    async with sending(database):
        await value(sql, "SELECT state FROM sends WHERE key = 'reset'", "sent")
    assert (await receiver("broadcast", "cancel", "wrong", "--yes")).code == 0
    assert await sql.fetchval("SELECT count(*) FROM sends WHERE state = 'cancelled'") == 4
    async with sending(database):
        await value(sql, "SELECT count(*) FROM sends WHERE state = 'cancelled'", 15)
    assert [mail["Subject"] for mail in peer.taken] == ["Reset"]
    assert "is cancelled" in (await receiver("broadcast", "resume", "wrong")).err
    audited = await sql.fetch("SELECT action FROM audit_log WHERE action LIKE 'broadcast%' ORDER BY at")
    assert [row["action"] for row in audited] == ["broadcast start", "broadcast pause", "broadcast cancel"]


async def test_what_is_done_stays_done(receiver: Receiver, sql: asyncpg.Connection, database: str) -> None:
    """who subscribes after a broadcast was queued does not get it, though it was paused since, and resumed"""
    await subscribers(sql, 2)
    assert (await receiver("broadcast", "start", "spring", *SALE, "--yes")).code == 0
    await filled(database)
    assert (await receiver("broadcast", "pause", "spring", "--why", "the price")).code == 0
    await subscribers(sql, 1, first=2)
    assert (await receiver("broadcast", "resume", "spring")).code == 0
    await filled(database)
    assert await sql.fetchval("SELECT state FROM broadcasts") == "done"
    assert await sql.fetchval("SELECT count(*) FROM sends") == 2


async def test_who_sleeps_keeps_nobody_waiting(receiver: Receiver, sql: asyncpg.Connection, database: str) -> None:
    """messages that are held for hours do not take the places of those that can go"""
    await subscribers(sql, 30)
    assert (await receiver("broadcast", "start", "night", *SALE, "--yes")).code == 0
    await filled(database, times=2)
    assert await sql.fetchval("SELECT count(*) FROM sends") == 15
    await sql.execute("UPDATE sends SET not_before = now() + interval '8 h'")
    await filled(database)
    assert await sql.fetchval("SELECT count(*) FROM sends") == 30


async def test_a_limited_account(
    receiver: Receiver, sql: asyncpg.Connection, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """only as much waits as the account's hour has room for, so that nothing grows too late; it all goes in the end"""
    monkeypatch.setattr("receiver.sending.sender.FULL", 0.1)
    with (tmp_path / "receiver.toml").open("a") as file:
        file.write("per_hour = 10\n")
    await subscribers(sql, 40)
    assert (await receiver("broadcast", "start", "slow", *SALE, "--yes")).code == 0
    async with sending(database):
        for hour in range(1, 6):
            await value(sql, "SELECT count(*) FROM sends WHERE state = 'sent'", min(9 * hour, 40))
            await filled(database)
            waiting = await sql.fetch("SELECT not_before > now() AS put_off FROM sends WHERE state = 'queued'")
            assert len(waiting) <= 10, hour  # as many as were in hand when it was looked
            assert not any(row["put_off"] for row in waiting)
            await sql.execute("UPDATE send_budgets SET began_at = began_at - interval '1 h'")
        await value(sql, "SELECT state FROM broadcasts", "done")


async def test_what_comes_back_is_cancelled(
    receiver: Receiver, sql: asyncpg.Connection, database: str, peer: Peer
) -> None:
    """a message that was on its way when its broadcast was cancelled, and is not taken, is cancelled too"""
    await subscribers(sql, 1)
    peer.hold, peer.data = asyncio.Event(), deque(["451 4.3.0 later"])
    assert (await receiver("broadcast", "start", "wrong", *SALE, "--yes")).code == 0
    async with sending(database):
        await value(sql, "SELECT count(*) FROM sends WHERE begun_at IS NOT NULL", 1)
        assert (await receiver("broadcast", "cancel", "wrong", "--yes")).code == 0
        peer.hold.set()
        await value(sql, "SELECT state FROM sends", "cancelled")
    assert peer.taken == []


async def test_one_that_cannot_go_on(receiver: Receiver, sql: asyncpg.Connection, database: str) -> None:
    """a broadcast whose recipients cannot be found is paused, and says why; the others go on"""
    await subscribers(sql, 3)
    for name in ("broken", "whole"):
        assert (await receiver("broadcast", "start", name, *SALE, "--yes")).code == 0
    await sql.execute("""
        CREATE FUNCTION wrong() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 / 0; RETURN NEW; END $$;
        CREATE TRIGGER wrong BEFORE INSERT ON sends FOR EACH ROW WHEN (NEW.key LIKE 'broadcast:broken:%')
        EXECUTE FUNCTION wrong()
    """)
    await filled(database)
    rows = {row["name"]: (row["state"], row["queued"], row["reason"]) for row in await sql.fetch("TABLE broadcasts")}
    assert rows == {
        "broken": ("paused", 0, "its recipients cannot be found: DivisionByZeroError"),
        "whole": ("done", 3, ""),
    }


async def test_what_cannot_be_started(
    receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a wrong name, topic, segment, account or template is told before anything is queued, and so is a missing value"""
    await subscribers(sql, 1)
    for options, said in (
        (("Spring!", *SALE), "small letters"),
        (("x", "--template", "sale", "--topic", "nwes"), "no topic nwes"),
        (("x", "--template", "sael", "--topic", "news"), "no template sael"),
        (("x", *SALE, "--segment", "none"), "no segment none"),
        (("x", *SALE, "--account", "mian"), "did you mean main"),
    ):
        ended = await receiver("broadcast", "start", *options, "--yes")
        assert (ended.code, said in ended.err) == (1, True), ended.err
    (tmp_path / "templates" / "sale" / "body.txt").write_text("{{ price }}")
    assert "price" in (await receiver("broadcast", "start", "x", *SALE, "--yes")).err
    assert (await receiver("broadcast", "start", "x", *SALE, "--data", '{"price": 7}', "--dry-run")).code == 0
    monkeypatch.setenv("RECEIVER_PUBLIC_URL", "http://mail.shop.example")
    assert "https" in (await receiver("broadcast", "start", "x", *SALE, "--yes")).err
    assert await sql.fetchval("SELECT count(*) FROM broadcasts") == 0
