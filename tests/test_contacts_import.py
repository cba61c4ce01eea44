"""Imports of people from files, by the command line."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from receiver.store.consent import Statement, record
from tests.cli import Receiver
from tests.people import VAULT, contact, everything, people
from tests.pgbouncer import through
from tests.service import SECRET_KEY
from tests.waiting import until

ROWS = 5_000
AGO = datetime.now(UTC) - timedelta(days=30)


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with people(database) as connection:
        yield connection


async def states(sql: asyncpg.Connection, topic: str) -> dict[str, str]:
    rows = await sql.fetch(
        "SELECT address, state FROM subscriptions JOIN contacts USING (address_hash) WHERE topic = $1", topic
    )
    return {row["address"]: row["state"] for row in rows}


async def test_a_file_as_spreadsheets_write_it(receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """columns are found by their names, in any encoding and with any delimiter; what is told is merged, by address"""
    text = (
        "E-Mail;First Name;Last Name;Language;Plan;Tags;\r\n"
        'Zoë.Q@example.com;Zoë;"Q\r\nQuast";de_AT;pro;"vip,""old, and gold""";\r\n'
        "ann@example.com;Ann;;;;;\r\n"
        "ANN@example.com;;;;'=1+1;;\r\n"
    )
    path = tmp_path / "people.csv"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"):
        await sql.execute("DELETE FROM contacts")
        path.write_bytes(text.encode(encoding))
        ended = await receiver("contacts", "import", "people.csv", "--tag", "2026", "--yes", "--json")
        assert ended.code == 0, ended.err
        assert ("cp1252" in ended.err) is (encoding == "cp1252")
        assert "Plan        attributes.Plan" in ended.err
        assert {name: ended.rows[0][name] for name in ("rows", "new", "replaced")} == {
            "rows": 3,
            "new": 2,
            "replaced": 1,
        }
        zoe = await contact(sql, "zoë.q@example.com")
        assert (zoe["name"], zoe["locale"], zoe["attributes"]) == ("Zoë Q\r\nQuast", "de-AT", {"Plan": "pro"})
        assert (zoe["display_address"], zoe["tags"]) == ("Zoë.Q@example.com", ["vip", "old, and gold", "2026"])
        assert (await contact(sql, "ann@example.com"))["attributes"] == {"Plan": "=1+1"}


async def test_json_keeps_types(receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """JSON Lines keep numbers, truth and nesting; attributes are merged, and what a file does not tell stays"""
    lines = [
        {"email": "ann@example.com", "age": 7, "attributes": {"a": {"b": [1.5, None, True]}}, "tags": ["x"]},
        {"email": "ann@example.com", "name": "Ann", "age": 8, "external_id": 17},
    ]
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps(lines[0]) + "\n\n")
    assert (await receiver("contacts", "import", "people.jsonl", "--yes")).code == 0
    path.write_text(
        json.dumps(lines[1]) + "\n[1]\n{\n" + '{"email": "x@example.com", "a": "\\ud800"}\n{"email": 1e999}'
    )
    ended = await receiver("contacts", "import", "people.jsonl", "--yes", "--json")
    assert ended.rows[0]["rejected"] == {"cannot be read": 3, "an attribute cannot be stored": 1}
    ann = await contact(sql, "ann@example.com")
    assert (ann["name"], ann["external_id"], ann["tags"]) == ("Ann", "17", ["x"])
    assert ann["attributes"] == {"age": 8, "a": {"b": [1.5, None, True]}}


async def test_rejected_rows_can_be_mended(receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """what cannot be taken is counted by reason and kept with it, line by line; the mended file is an import itself"""
    await sql.execute("INSERT INTO contacts (address, address_hash, external_id) VALUES ('old@example.com', '', 'A1')")
    (tmp_path / "people.csv").write_text(
        "email,customer id,lang\nann@,1,\n=bad,2,\n,3,\nbob@example.com,A1,\ncat@example.com,4,nonsense here\n"
        'dan@example.com,5,de,6,7\neve@example.com,"8"9,\nfred@example.com,B2\nfred2@example.com,B2\n'
    )
    dry = await receiver("contacts", "import", "people.csv", "--dry-run", "--json")
    done = await receiver("contacts", "import", "people.csv", "--yes", "--json")
    assert {**dry.rows[0], "dry_run": False} == done.rows[0]
    assert done.rows[0]["new"] == 1
    assert done.rows[0]["rejected"] == {
        "no usable address": 2,
        "no address": 1,
        "external_id is another contact's": 2,
        "no locale": 1,
        "cannot be read": 2,
    }
    rejects = tmp_path / "people.csv.rejected.csv"
    assert rejects.stat().st_mode & 0o077 == 0
    with rejects.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["reject_line"] for row in rows] == ["2", "3", "4", "6", "7", "8", "5", "10"]
    assert [row["email"] for row in rows[:2]] == ["ann@", "'=bad"]
    rejects.write_text(rejects.read_text().replace("ann@,", "ann@example.com,"))
    again = await receiver("contacts", "import", rejects.name, "--yes", "--json")
    assert (again.rows[0]["new"], "reject_line" not in str(await contact(sql, "ann@example.com"))) == (1, True)


async def test_nobody_is_brought_back(receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """who has unsubscribed, from the topic or everything, or was erased, stays so whatever the file says; it is told"""
    hashes = {name: VAULT.address_hash(f"{name}@example.com") for name in ("left", "gone", "dead", "erased")}
    said = Statement(
        address_hash=hashes["left"],
        address=None,
        action="unsubscribed",
        at=AGO,
        topic="news",
        source="x",
        method="event",
    )
    await record(sql, [said])
    for name, reason, scope in (("gone", "unsubscribe", "marketing"), ("dead", "hard_bounce", "all")):
        await sql.execute(
            "INSERT INTO suppressions (address_hash, reason, scope, since, last_at, source)"
            " VALUES ($1, $2, $3, $4, $4, 'x')",
            *(hashes[name], reason, scope, AGO),
        )
    await sql.execute("INSERT INTO erasures (address_hash, who) VALUES ($1, 'x')", hashes["erased"])
    (tmp_path / "people.csv").write_text("email\n" + "".join(f"{name}@example.com\n" for name in (*hashes, "new")))
    command = ("contacts", "import", "people.csv", "--topic", "news", "--consented-at", "2026-11-01", "--json")
    dry = (await receiver(*command, "--dry-run")).rows[0]
    done = (await receiver(*command, "--yes")).rows[0]
    assert dry | {"dry_run": False} == done
    assert (done["new"], done["erased"], done["suppressed"]) == (4, 1, 2)
    assert done["topics"]["news"] == {"subscribed": 2, "stays_unsubscribed": 2}
    assert await states(sql, "news") == {
        "left@example.com": "unsubscribed",
        "dead@example.com": "subscribed",
        "new@example.com": "subscribed",
    }
    again = (await receiver(*command, "--yes", "--even-erased")).rows[0]
    assert (again["new"], again["topics"]["news"]["already"]) == (1, 2)
    assert await sql.fetchval("SELECT count(*) FROM erasures") == 0


async def test_consent_and_its_evidence(receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """double opt-in waits for a confirmation unless the team states the words; time and words go into the log"""
    (tmp_path / "a.csv").write_text(
        "email,agreed\nann@example.com,2026-03-04 05:06:07\nbob@example.com,\nc@x.test,03/04/26\n"
    )
    plain = ("contacts", "import", "a.csv", "--topic", "offers", "--topic", "news", "--consented-at", "agreed", "--yes")
    first = (await receiver(*plain, "--json")).rows[0]
    assert first["topics"] == {"offers": {"pending": 2}, "news": {"subscribed": 2}}
    assert first["rejected"] == {"wrong time of consent": 1}
    vouched = (await receiver(*plain, "--consent", "Send me offers", "--source", "shop", "--json")).rows[0]
    assert vouched["topics"] == {"offers": {"subscribed": 2}, "news": {"already": 2}}
    assert set((await states(sql, "offers")).values()) == {"subscribed"}
    logged = await sql.fetch(
        "SELECT address, occurred_at, wording, source FROM consent_log WHERE action = 'subscribed' AND topic = 'offers'"
    )
    by_address = {row["address"]: row for row in logged}
    assert by_address["ann@example.com"]["occurred_at"] == datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert by_address["bob@example.com"]["occurred_at"] > datetime.now(UTC) - timedelta(minutes=5)
    assert {(row["wording"], row["source"]) for row in logged} == {("Send me offers", "import:shop")}


async def test_a_second_run_changes_nothing(receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """the same import said again reports that nothing changed, and nothing did, doubles and all"""
    (tmp_path / "a.csv").write_text("email,name,x\na@x.test,A,1\nb@x.test,B,2\na@x.test,C,3\n")
    command = ("contacts", "import", "a.csv", "--topic", "news", "--tag", "t", "--yes")
    await receiver(*command)
    before = await everything(sql)
    again = await receiver(*command)
    assert (again.code, "nothing changed" in again.err) == (0, True)
    assert await everything(sql) == before


async def test_a_killed_import_goes_on(
    receiver: Receiver, sql: asyncpg.Connection, database: str, tmp_path: Path
) -> None:
    """an import that is killed in the middle goes on where it was, and ends as if nothing had happened"""
    lines = [f"p{number}@x.test,{number}\n" if number % 50 else f"p{number},\n" for number in range(ROWS)]
    (tmp_path / "a.csv").write_text("email,n\n" + "".join(lines) + "p7@x.test,last\n")
    command = ("contacts", "import", "a.csv", "--topic", "news", "--yes", "--json")
    environ = {**os.environ, "RECEIVER_DATABASE": through(database), "RECEIVER_SECRET_KEY": SECRET_KEY}
    # The third chunk waits for a row of ours: that is when the process is killed.
    blocker = await asyncpg.connect(database)
    transaction = blocker.transaction()
    await transaction.start()
    hash_ = VAULT.address_hash("p4001@x.test")
    await blocker.execute("INSERT INTO contacts (address, address_hash) VALUES ('p4001@x.test', $1)", hash_)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "receiver", *command), env=environ, cwd=tmp_path
    )

    async def stuck() -> bool:
        """Behind us, and not behind anybody of another test in the same Postgres."""
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))"
        return bool(await sql.fetchval(waiting, blocker.get_server_pid()))

    try:
        await until(stuck, within=120)
    finally:
        process.kill()
        await process.wait()
    await transaction.rollback()
    await blocker.close()
    assert await sql.fetchval("SELECT rows_done FROM imports") == 4_000
    assert await sql.fetchval("SELECT count(*) FROM contacts") == 4_000 * 49 // 50 - 1
    ended = await receiver(*command)
    assert "going on after row 4000" in ended.err
    assert ended.rows[0]["rows"] == ROWS + 1
    assert (ended.rows[0]["new"], ended.rows[0]["replaced"]) == (ROWS * 49 // 50, 1)
    assert (await contact(sql, "p7@x.test"))["attributes"] == {"n": "last"}
    with (tmp_path / "a.csv.rejected.csv").open(newline="") as file:
        rejected = [row["reject_line"] for row in csv.DictReader(file)]
    assert rejected == [str(number + 2) for number in range(0, ROWS, 50)]
    assert await sql.fetchval("SELECT count(*) FROM consent_log") == ROWS * 49 // 50


async def test_what_cannot_be_imported(receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """a file without header, address column or topic says what to do, and stores nothing; bare addresses will do"""
    (tmp_path / "a.csv").write_text("ann@example.com,Ann\n")
    (tmp_path / "b.csv").write_text("who,what\nann@example.com,x\n")
    (tmp_path / "c.csv").write_text("a,a\n")
    (tmp_path / "d.csv").write_text(" \n")
    (tmp_path / "e.txt").write_text("ann@example.com\nbob@example.com\n")
    for arguments, says in (
        (("a.csv",), "has no header"),
        (("b.csv",), "--map COLUMN=address"),
        (("b.csv", "--map", "whom=address"), "there is no such column; the file has who, what"),
        (("b.csv", "--map", "who=adress"), "a column becomes one of address"),
        (("c.csv",), "several columns"),
        (("d.csv",), "is empty"),
        (("e.txt", "--topic", "nwes"), "receiver topics add nwes"),
        (("e.txt",), "there is nobody to ask"),
    ):
        ended = await receiver("contacts", "import", *arguments)
        assert (ended.code, says in ended.err) == (1, True), (arguments, ended.err)
    assert await sql.fetchval("SELECT count(*) FROM contacts") == 0
    assert (await receiver("contacts", "import", "b.csv", "--map", "who=address", "--map", "what=-", "--yes")).code == 0
    assert (await receiver("contacts", "import", "e.txt", "--yes", "--json")).rows[0]["new"] == 1
