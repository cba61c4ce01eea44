"""`receiver links` and `receiver contacts subscribe`."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from receiver.contacts.links import Leaving, read_unsubscribe
from tests.cli import Receiver, command_for
from tests.pages import ADA, URL, VAULT, contact, hash_of, mailed, suppressed, topic


@pytest.fixture
def receiver(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Receiver:
    run = command_for(database, tmp_path, capsys, monkeypatch)
    monkeypatch.setenv("RECEIVER_PUBLIC_URL", URL)
    monkeypatch.setenv("RECEIVER_ACCOUNTS__MAIN__TRANSPORT", "smtp")
    return run


async def test_an_unsubscribe_link(receiver: Receiver, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """the link and the headers for one message, for people and for programs; a topic that is not there is said so"""
    sql = await asyncpg.connect(database)
    await topic(sql, "news")
    made = await receiver("links", "unsubscribe", "Ada@Example.com", "--topic", "news", "--send", "m-1", "--json")
    (row,) = made.rows
    assert read_unsubscribe(VAULT, row["url"].removeprefix(f"{URL}/u/")) == Leaving(hash_of(), "news", "", "m-1")
    assert row["headers"]["List-Unsubscribe"] == f"<{row['url']}>"
    assert made.err == ""
    shown = await receiver("links", "unsubscribe", ADA, "--topic", "nothing", "--mailto", "leave@example.net")
    assert "List-Unsubscribe-Post: List-Unsubscribe=One-Click" in shown.out.splitlines()
    assert "<mailto:leave@example.net?subject=unsubscribe>" in shown.out
    assert "there is no topic nothing" in shown.err
    assert (await receiver("links", "unsubscribe", "ada")).code == 1
    everything = await receiver("links", "unsubscribe", ADA, "--topic", "")  # not the link to leave everything
    assert (everything.code, everything.out) == (2, "")
    monkeypatch.setenv("RECEIVER_PUBLIC_URL", "http://hooks.example.net")
    assert "public_url must begin with https" in (await receiver("links", "unsubscribe", ADA)).err
    monkeypatch.setenv("RECEIVER_SECRET_KEY", "quite another secret key, which is long enough")
    monkeypatch.setenv("RECEIVER_PUBLIC_URL", URL)
    assert "Set address_key" in (await receiver("links", "unsubscribe", ADA)).err
    await sql.close()


async def test_mailing_the_preferences(receiver: Receiver, database: str) -> None:
    """a known address is mailed the link, not twice within ten minutes; an unknown one is not"""
    sql = await asyncpg.connect(database)
    await contact(sql)
    assert (await receiver("links", "preferences", ADA)).code == 0
    again = await receiver("links", "preferences", ADA)
    assert (again.code, "10 minutes" in again.err) == (1, True)
    assert "no contact has this address" in (await receiver("links", "preferences", "who@example.com")).err
    assert len(await mailed(sql, "preferences")) == 1
    await sql.close()


async def test_without_an_account_no_mail_is_promised(
    receiver: Receiver, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """what nothing would send is not queued, and what is missing is said; a subscription without a mail is taken"""
    sql = await asyncpg.connect(database)
    await contact(sql)
    await topic(sql, "news")
    await topic(sql, "club", double_opt_in=True)
    monkeypatch.setenv("RECEIVER_ACCOUNTS__MAIN__STREAMS", "marketing")
    assert "put transactional into the streams" in (await receiver("links", "preferences", ADA)).err
    for name in ("TRANSPORT", "STREAMS"):
        monkeypatch.delenv(f"RECEIVER_ACCOUNTS__MAIN__{name}")
    for arguments in (("links", "preferences", ADA), ("contacts", "subscribe", ADA, "club", "--wording", "Yes.")):
        refused = await receiver(*arguments)
        assert (refused.code, "add a table [accounts.<name>]" in refused.err, refused.out) == (1, True, "")
    assert [await sql.fetchval(f"SELECT count(*) FROM {name}") for name in ("sends", "confirmations")] == [0, 0]
    assert (await receiver("contacts", "subscribe", ADA, "news", "--wording", "Yes.")).code == 0
    await sql.close()


async def test_subscribing(receiver: Receiver, database: str) -> None:
    """one person is subscribed, or asked to confirm it; what still stands against mail is said"""
    sql = await asyncpg.connect(database)
    await topic(sql, "news")
    await topic(sql, "club", double_opt_in=True)
    asked = ("contacts", "subscribe", "Ada@Example.com")
    done = await receiver(*asked, "news", "--wording", "Yes, the news.")
    assert done.out == "subscribed: no confirmation is needed\n"
    pending = await receiver(*asked, "club", "--wording", "Yes, the club.", "--json")
    assert pending.rows == [{"state": "pending", "mail": "queued", "sendable": False, "reason": "pending"}]
    assert len(await mailed(sql, "confirm-subscription")) == 1
    said = await sql.fetch("SELECT action, topic, wording, detail ->> 'who' <> '' FROM consent_log ORDER BY id")
    assert [tuple(one) for one in said] == [
        ("subscribed", "news", "Yes, the news.", True),
        ("requested", "club", "Yes, the club.", True),
    ]
    await suppressed(sql, "complaint", "marketing")
    assert "complaint" in (await receiver(*asked, "news", "--wording", "Yes, the news.")).err
    assert "there is no topic 'none'" in (await receiver(*asked, "none", "--wording", "Yes.")).err
    await sql.close()
