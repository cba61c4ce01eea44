"""What is not stored: columns that the settings leave out, and what names erased people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from pydantic import ValidationError

from receiver.event import EventType
from receiver.privacy_settings import DROPPABLE, PrivacySettings
from receiver.settings import read_settings
from receiver.store.intake import COLUMNS
from receiver.store.privacy import CHECKED, EMPTIED
from receiver.vault import Vault
from tests.cli import Receiver
from tests.service import SECRET_KEY, Played, play, running

ANNA: Final = "anna@example.com"
BOB: Final = "bob@example.com"


async def erase(sql: asyncpg.Connection, address: str) -> None:
    await sql.execute(
        "INSERT INTO erasures (address_hash, who) VALUES ($1, 'test')", Vault(SECRET_KEY).address_hash(address)
    )


def click(address: str, **more: Any) -> dict[str, Any]:
    return {
        "email": address, "event": "click", "timestamp": 1790000000, "sg_message_id": "m1", "ip": "192.0.2.7",
        "useragent": "Mozilla/5.0", "url": "https://shop.test/?u=7", "category": ["news"], "order": 7, **more,
    }  # fmt: skip


async def test_columns_that_are_left_out(database: str, tmp_path: Path) -> None:
    """what [privacy] drop names is not stored, whatever is left is, and what was judged by it stays judged"""
    shop = play("sendgrid", tmp_path, name="shop")
    async with running(database, shop, drop=DROPPABLE) as service:
        for post in shop.post_items([click(ANNA)]):
            assert (await service.post("shop", post)).status_code == 200
        (event,) = await service.events()
    left = {name for name in COLUMNS if event[name] not in (None, [], "{}")}
    assert not left & set(DROPPABLE)
    assert (event["recipient"], event["message_id"], event["type"]) == (ANNA, "m1", "clicked")
    assert event["actor"] is not None
    assert event["raw_altered"] is False


def test_what_can_be_left_out(tmp_path: Path) -> None:
    """every name that is allowed is a column, and one that is not is refused before the start, with the right one"""
    assert set(DROPPABLE) | set(EMPTIED) | set(CHECKED) <= set(COLUMNS)
    config = tmp_path / "receiver.toml"
    config.write_text('[privacy]\ndrop = ["useragent"]\n')
    _, problems = read_settings(config, {})
    assert [one.key for one in problems] == ["privacy.drop"]
    assert "did you mean user_agent" in problems[0].wrong
    with pytest.raises(ValidationError, match="contacts and suppressions rest on it"):
        PrivacySettings(drop=["recipient"])
    settings, problems = read_settings(tmp_path / "none.toml", {"RECEIVER_PRIVACY__DROP": "raw, url"})
    assert (settings.privacy.drop, len(problems)) == (["raw", "url"], 1)  # the file that is not there


async def test_reprocessing_leaves_out_too(
    database: str, sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path
) -> None:
    """what is left out since is not brought back, and goes, when stored events are read again"""
    shop = play("sendgrid", tmp_path, name="shop")
    async with running(database, shop) as service:
        (post,) = shop.post_items([click(ANNA)])
        assert (await service.post("shop", post)).status_code == 200
    assert await sql.fetchval("SELECT host(client_ip) FROM events") == "192.0.2.7"
    key = shop.source.settings.model_dump()["public_key"]
    (tmp_path / "receiver.toml").write_text(
        f'[privacy]\ndrop = ["client_ip"]\n[sources.shop]\nprovider = "sendgrid"\npublic_key = {json.dumps(key)}\n'
    )
    assert (await receiver("reprocess", "--type", "clicked", "--yes")).code == 0
    rows = await sql.fetch("SELECT client_ip, user_agent FROM events")
    assert [tuple(row) for row in rows] == [(None, "Mozilla/5.0")]


async def test_a_later_event(database: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """an event about an erased person is stored without what names them, others in the same request are untouched,
    and once the person has signed up again theirs are stored as everybody's"""
    shop = play("sendgrid", tmp_path, name="shop")
    async with running(database, shop) as service:
        await erase(sql, ANNA)
        for items in ([click(ANNA, category=["news", "for Anna%40example.com"]), click(BOB)], [click(ANNA, url="x")]):
            (post,) = shop.post_items(items)
            assert (await service.post("shop", post)).status_code == 200
        anna, bob, _ = await service.events()
        assert {name for name in COLUMNS if anna[name] != bob[name]} == {
            "id", "shard", "recipient", "recipient_domain", "metadata", "url", "user_agent", "client_ip", "raw", "tags",
            "attribution",
        }  # fmt: skip
        assert [anna[name] for name in (*EMPTIED, "tags", "attribution")] == [
            *("{}" if name == "metadata" else None for name in EMPTIED), [], "erased",
        ]  # fmt: skip
        assert (anna["type"], anna["message_id"], anna["mailbox_provider"]) == (
            "clicked",
            "m1",
            bob["mailbox_provider"],
        )
        assert (bob["recipient"], json.loads(bob["raw"])["email"]) == (BOB, BOB)
        await sql.execute("DELETE FROM erasures")
        (post,) = shop.post_items([click(ANNA, url="later")])
        assert (await service.post("shop", post)).status_code == 200
        assert [row["recipient"] for row in await service.events("url = 'later'")] == [ANNA]


async def test_leaving_out_and_erasing_together(database: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """columns that are left out still tell whose event it is: an erased person's words stay away in the others'"""
    ses: Played = play("ses", tmp_path, name="ses")
    sample: Any = ses.source.provider.simulation.sample(ses.occurrences(EventType.BOUNCED, BOB)[0])
    recipients = sample["bounce"]["bouncedRecipients"]
    recipients.append(json.loads(json.dumps(recipients[0]).replace(BOB, ANNA)))
    recipients[0]["diagnosticCode"] = f"smtp; 550 5.1.1 no such user, see also {ANNA}"
    async with running(database, ses, drop=["raw", "sender"]) as service:
        await erase(sql, ANNA)
        for post in ses.post_items([sample]):
            assert (await service.post("ses", post)).status_code == 200
        rows = {row["recipient"]: row for row in await service.events()}
    assert rows.keys() == {BOB, None}
    assert "no such user" in rows[BOB]["diagnostic"]
    assert (rows[BOB]["raw"], rows[BOB]["raw_altered"]) == (None, False)
    assert "anna" not in str([tuple(row) for row in rows.values()])


async def test_a_report_about_several(database: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """where one report tells of an erased person and another, the other's event keeps what is said of them alone"""
    ses: Played = play("ses", tmp_path, name="ses")
    simulation = ses.source.provider.simulation
    occurrence = ses.occurrences(EventType.BOUNCED, BOB)
    sample: Any = simulation.sample(occurrence[0])
    recipients = sample["bounce"]["bouncedRecipients"]
    recipients.append(json.loads(json.dumps(recipients[0]).replace(BOB, ANNA)))
    sample["mail"]["destination"] = [BOB, ANNA]
    async with running(database, ses) as service:
        await erase(sql, ANNA)
        for post in ses.post_items([sample]):
            assert (await service.post("ses", post)).status_code == 200
        rows = {row["recipient"]: row for row in await service.events()}
    assert rows.keys() == {BOB, None}
    raw = json.loads(rows[BOB]["raw"])
    assert [one["emailAddress"] for one in raw["bounce"]["bouncedRecipients"]] == [BOB]
    assert raw["mail"]["destination"] == [BOB]
    assert rows[BOB]["raw_altered"]
    assert "anna" not in str([tuple(row) for row in rows.values()])
