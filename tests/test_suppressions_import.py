"""Suppression lists of providers, by the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.cli import Receiver
from tests.people import VAULT, people

T = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SECONDS = int(T.timestamp())
MAIL = "Wed, 04 Mar 2026 05:06:07 UTC"
ISO = "2026-03-04T05:06:07"

BOUNCE = ("hard_bounce", "all")
COMPLAINT = ("complaint", "marketing")
LEFT = ("unsubscribe", "marketing")
MANUAL = ("manual", "all")
IMPORTED = ("imported", "all")


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with people(database) as connection:
        yield connection


def lines(*rows: str) -> str:
    return "\r\n".join(rows) + "\r\n"


A = "a@x.test"
SES = {"EmailAddress": A, "Reason": "BOUNCE", "LastUpdateTime": SECONDS + 0.0}
POSTMARK = {"EmailAddress": A, "Origin": "Recipient", "CreatedAt": "2026-03-04T00:06:07-05:00"}
SPACED = ISO.replace("T", " ")

# Preset, name of the file, text, what it means.
EXPORTS: list[tuple[str, str, Any, tuple[str, str] | None]] = [
    ("sendgrid", "sup_bounces.csv", lines("status,reason,email,created", f'5.1.1,"550, no",{A},{SECONDS}'), BOUNCE),
    ("sendgrid", "bounces.json", [{"created": SECONDS, "email": A, "reason": "no", "status": "5"}], BOUNCE),
    ("sendgrid", "spam_reports.csv", lines("email,ip,created", f"{A},192.0.2.1,{ISO}Z"), COMPLAINT),
    ("sendgrid", "unsubscribes.json", [{"created": SECONDS, "email": A}], LEFT),
    ("sendgrid", "blocks.csv", lines("status,reason,email,created", f"4.0.0,no,{A},{SECONDS}"), None),
    ("mailgun", "list.csv", lines("address,code,error,created_at", f'{A},550,no,"{MAIL}"'), BOUNCE),
    ("mailgun", "x.json", {"items": [{"address": A, "tags": ["*"], "created_at": MAIL}], "paging": {}}, LEFT),
    ("mailgun", "complaints.json", {"items": [{"address": A, "created_at": MAIL}]}, COMPLAINT),
    ("postmark", "dump.json", {"Suppressions": [POSTMARK | {"SuppressionReason": "HardBounce"}]}, BOUNCE),
    ("postmark", "dump.json", {"Suppressions": [POSTMARK | {"SuppressionReason": "SpamComplaint"}]}, COMPLAINT),
    ("postmark", "dump.json", {"Suppressions": [POSTMARK | {"SuppressionReason": "ManualSuppression"}]}, LEFT),
    ("postmark", "a.jsonl", POSTMARK | {"SuppressionReason": "ManualSuppression", "Origin": "Customer"}, MANUAL),
    ("ses", "ses.json", {"SuppressedDestinationSummaries": [SES]}, BOUNCE),
    ("ses", "ses.json", [{"SuppressedDestinationSummaries": [SES | {"Reason": "COMPLAINT"}]}], COMPLAINT),
    ("mailchimp", "m.csv", lines("Email Address,UNSUB_TIME,UNSUB_REASON", f"{A},{SPACED},NORMAL"), LEFT),
    ("mailchimp", "m.csv", lines("Email Address,CLEAN_TIME,CLEAN_CAMPAIGN_TITLE", f"{A},{SPACED},x"), IMPORTED),
    ("csv", "any.csv", lines("Email;Type;Date", f"{A};Spam Complaint;{ISO}Z"), COMPLAINT),
    ("csv", "any.csv", lines("Email;Type;Date", f"{A};whatever;{ISO}Z"), IMPORTED),
]


@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: f"{export[0]} {export[3] and export[3][0]}")
async def test_exports_of_providers(
    receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path, export: tuple[str, str, Any, tuple[str, str] | None]
) -> None:
    """each provider's export becomes what it means, with its own time and source; blocks are no suppressions"""
    preset, name, text, means = export
    (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text, indent=2))
    ended = await receiver("suppressions", "import", name, "--from", preset, "--yes", "--json")
    assert ended.code == 0, ended.err
    rows = await sql.fetch("SELECT * FROM suppressions")
    if means is None:
        assert (rows, ended.rows[0]["left_out"], "blocks" in ended.err) == ([], 1, True)
        return
    (row,) = rows
    assert (row["reason"], row["scope"], row["since"], row["last_at"]) == (*means, T, T)
    assert (row["source"], row["address_hash"]) == (f"import:{preset}", VAULT.address_hash(A))
    assert row["recipient_domain"] == "x.test"
    (logged,) = await sql.fetch("SELECT * FROM consent_log")
    assert (logged["occurred_at"], logged["method"], logged["source"]) == (T, "import", f"import:{preset}")


async def test_evidence_of_its_own_time(receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """an import neither brings back what was lifted after it nor lowers anything, and a second time changes nothing"""
    hashes = {name: VAULT.address_hash(f"{name}@x.test") for name in ("lifted", "again", "known", "worse")}
    insert = (
        "INSERT INTO suppressions (address_hash, reason, scope, since, last_at, source, lifted_at)"
        " VALUES ($1, $2, $3, $4, $5, 'shop', $6)"
    )
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
    await sql.execute(insert, hashes["lifted"], "hard_bounce", "all", early, early, late)
    await sql.execute(insert, hashes["again"], "hard_bounce", "all", early, early, datetime(2026, 2, 1, tzinfo=UTC))
    await sql.execute(insert, hashes["known"], "hard_bounce", "all", early, late, None)
    await sql.execute(insert, hashes["worse"], "complaint", "marketing", early, early, None)
    names = [*hashes, "new", "NEW"]
    rows = [f"{name}@x.test,bounce,{ISO}Z" for name in names]
    (tmp_path / "a.csv").write_text(
        lines("email,reason,created_at", *rows, "new@x.test,bounce,2026-04-01", "@,bounce,")
    )
    command = ("suppressions", "import", "a.csv", "--from", "csv", "--json")
    dry = (await receiver(*command, "--dry-run")).rows[0]
    assert await sql.fetchval("SELECT count(*) FROM suppressions") == 4
    done = (await receiver(*command, "--yes")).rows[0]
    assert dry | {"dry_run": False} == done
    assert (done["new"], done["changed"], done["unchanged"], done["stays_lifted"]) == (2, 1, 1, 1)
    assert done["rejected"] == {"no usable address": 1}
    active = await sql.fetch("SELECT address_hash, reason FROM suppressions WHERE active")
    by_hash = {hash_: {row["reason"] for row in active if row["address_hash"] == hash_} for hash_ in hashes.values()}
    assert by_hash[hashes["lifted"]] == set()
    assert by_hash[hashes["again"]] == {"hard_bounce"}
    assert by_hash[hashes["worse"]] == {"hard_bounce", "complaint"}
    new = await sql.fetchrow(
        "SELECT since, last_at FROM suppressions WHERE address_hash = $1", VAULT.address_hash("new@x.test")
    )
    assert new is not None
    assert tuple(new) == (T, datetime(2026, 4, 1, tzinfo=UTC))
    assert "nothing changed" in (await receiver(*command, "--yes")).err


async def test_leaving_a_topic_is_not_leaving_everything(
    receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """a group's or tag's unsubscribe is from that topic; where the file does not say which, somebody has to"""
    groups = [{"email": "a@x.test", "group_id": 17, "group_name": "News", "created_at": SECONDS}]
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    (tmp_path / "one.json").write_text('["b@x.test"]')
    (tmp_path / "tags.csv").write_text(lines("address,tags,created_at", f'c@x.test,"news, offers","{MAIL}"'))
    (tmp_path / "which.csv").write_text(lines("email,created", f"d@x.test,{SECONDS}"))
    assert (await receiver("suppressions", "import", "groups.json", "--from", "sendgrid", "--yes")).code == 0
    group = (
        "suppressions",
        "import",
        "one.json",
        "--from",
        "sendgrid",
        "--list",
        "group_unsubscribes",
        "--yes",
        "--json",
    )
    assert (await receiver(*group, "--yes", "--json")).rows[0]["rejected"] == {"no topic": 1}
    assert (await receiver(*group, "--topic", "", "--yes", "--json")).code == 2
    assert (await receiver(*group, "--topic", "news", "--yes", "--json")).rows[0]["unsubscribed"] == 1
    assert (await receiver("suppressions", "import", "tags.csv", "--from", "mailgun", "--yes")).code == 0
    unsure = await receiver("suppressions", "import", "which.csv", "--from", "sendgrid", "--yes")
    assert (unsure.code, "say --list" in unsure.err) == (1, True)
    found = await sql.fetch(
        "SELECT address, s.topic, state FROM subscriptions s JOIN consent_log USING (address_hash, topic)"
    )
    assert {tuple(row) for row in found} == {
        ("a@x.test", "17", "unsubscribed"),
        ("b@x.test", "news", "unsubscribed"),
        ("c@x.test", "news", "unsubscribed"),
        ("c@x.test", "offers", "unsubscribed"),
    }
    assert await sql.fetchval("SELECT count(*) FROM suppressions") == 0
