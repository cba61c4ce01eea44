"""The outbox and templates by the command line."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest

from receiver.store import outbox
from tests.cli import Receiver, command_for
from tests.outbox import Sending
from tests.smtp_peer import ACCOUNT


@pytest.fixture
def receiver(
    database: str, sending: Sending, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Receiver:
    (tmp_path / "receiver.toml").write_text(ACCOUNT.format(port=sending.peer.port))
    return command_for(database, tmp_path, capsys, monkeypatch)


def template(directory: Path, name: str, **parts: str) -> None:
    (directory / "templates" / name).mkdir(parents=True)
    for part, text in parts.items():
        (directory / "templates" / name / part.replace("_", ".")).write_text(text)


async def audited(sending: Sending) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await sending.sql.fetch("SELECT action, subject FROM audit_log ORDER BY at")]


async def test_what_became_of_messages(receiver: Receiver, sending: Sending) -> None:
    """messages are listed by state, and one is shown with its attempts, the guard's answers, and its events"""
    sent = await sending.queue("welcome:ann")
    sending.peer.data = deque(["250 OK", "554 5.7.1 spam"])
    async with sending.running(sending.sender()):
        await sending.state("welcome:ann", "sent")
        await sending.queue("later:bob", to="bob@example.com")
        await sending.state("later:bob", "failed")
    await sending.sql.execute(
        "INSERT INTO events (id, received_at, occurred_at, type, source, provider, provider_type, recipient, metadata, "
        "shard, tags) VALUES (gen_random_uuid(), now(), now(), 'delivered', 's', 'p', 'x', 'ann@example.com', "
        "jsonb_build_object('send_id', $1::text), 1, '{}')",
        str(sent),
    )
    failed = (await receiver("sends", "--state", "failed", "--recipient", "BOB@example.com", "--json")).rows
    assert [(row["key"], row["reason"]) for row in failed] == [("later:bob", "message_refused")]
    (shown,) = (await receiver("sends", "show", str(sent), "--json")).rows
    assert [one["outcome"] for one in shown["attempts"]] == ["sent"]
    assert {one["name"]: one["verdict"] for one in shown["attempts"][0]["checks"]}["sendable"] == "go"
    assert [one["type"] for one in shown["events"]] == ["delivered"]
    page = await receiver("sends", "show", str(sent))
    assert ("switch, deadline, sendable" in page.out, "delivered" in page.out) == (True, True)
    assert "sends list" in (await receiver("sends", "show", "00000000-0000-0000-0000-000000000000")).err


async def test_again_and_not_at_all(receiver: Receiver, sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """what failed is queued again, marketing mail that may have arrived only by --yes, and what waits is cancelled"""
    monkeypatch.setattr("receiver.store.send_list.PIECE", 1)
    failed, unknown = await sending.queue("a:1"), await sending.queue("a:2", stream="marketing", topic="news")
    await sending.queue("b:1")
    await sending.sql.execute("UPDATE sends SET state = 'failed', settled_at = now() WHERE key = 'a:1'")
    await sending.sql.execute("UPDATE sends SET state = 'unknown', settled_at = now() WHERE key = 'a:2'")
    unsure = await receiver("sends", "retry", str(failed), str(unknown))
    assert (unsure.code, "arrive twice" in unsure.err) == (1, True)
    assert (await receiver("sends", "retry", str(failed))).code == 0
    await sending.state("a:1", "queued")
    assert (await receiver("sends", "retry", str(failed))).code == 1
    assert (await receiver("sends", "retry", str(unknown), "--yes")).code == 0
    assert "2 not sent yet" in (await receiver("sends", "cancel", "--key", "a:", "--dry-run")).err
    assert (await receiver("sends", "cancel", "--key", "a:", "--yes")).code == 0
    states = await sending.sql.fetch("SELECT key, state FROM sends ORDER BY key")
    assert [tuple(row) for row in states] == [("a:1", "cancelled"), ("a:2", "cancelled"), ("b:1", "queued")]
    assert (await receiver("sends", "cancel")).code == 2
    assert "a message's id" in (await receiver("sends", "cancel", "a:1")).err
    for nothing in (("--key", "a:"), (str(failed),)):
        assert "none that is not sent yet" in (done := await receiver("sends", "cancel", *nothing)).err
        assert done.code == 0
    assert "is cancelled" in done.err
    assert await audited(sending) == [
        ("sends retry", str(failed)),
        ("sends retry", str(unknown)),
        *[("sends cancel", "key a:: 1")] * 2,
    ]


async def test_the_kill_switch_by_hand(receiver: Receiver, sending: Sending) -> None:
    """accounts and all sending are paused and resumed by name, the listing says so, and a wrong name stops nothing"""
    assert "did you mean main" in (await receiver("sends", "pause", "mian", "--why", "x")).err
    assert (await receiver("sends", "pause")).code == 2
    assert (await receiver("sends", "pause", "--why", "wrong price")).code == 0
    assert (await receiver("sends", "pause", "main", "--why", "wrong key")).code == 0
    rows = {row["name"]: row for row in (await receiver("sends", "accounts", "--json")).rows}
    assert [(rows[name]["state"], rows[name]["reason"]) for name in ("*", "main")] == [
        ("paused", "wrong price"),
        ("paused", "wrong key"),
    ]
    await sending.queue("one")
    async with sending.running(sending.sender()):
        assert (await receiver("sends", "resume", "main")).code == 0
        await sending.state("one", "queued")
        assert (await receiver("sends", "resume")).code == 0
        await sending.state("one", "sent")
    (_, main) = (await receiver("sends", "accounts", "--json")).rows
    assert (main["state"], main["hour"], main["day"]) == ("sends", 1, 1)
    assert not await outbox.resume(sending.sql, outbox.EVERY)
    assert "not paused" in (await receiver("sends", "resume", "main")).err
    assert (await receiver("sends", "resume", "mian")).code == 1


async def test_templates_and_a_test_message(receiver: Receiver, sending: Sending, tmp_path: Path) -> None:
    """a template is shown with its sample or given values, one that lacks a value says so, and one message goes out"""
    template(
        tmp_path,
        "welcome",
        subject_txt="Hi {{ name }}",
        body_html="<p>Order <b>{{ order }}</b></p>",
        meta_toml='stream = "transactional"\n[sample]\nname = "Ada"\norder = 7\n',
    )
    template(tmp_path, "broken", subject_txt="{% if %}", body_txt="x")
    listed = await receiver("templates", "--json")
    assert [(row["name"], bool(row["wrong"])) for row in listed.rows] == [("broken", True), ("welcome", False)]
    assert listed.code == 1
    shown = await receiver("templates", "preview", "welcome", "--html", "out.html")
    assert shown.out.startswith("Subject: Hi Ada\n\nOrder 7")
    assert "<b>7</b>" in (tmp_path / "out.html").read_text()
    assert "Hi Bob" in (await receiver("templates", "preview", "welcome", "--sample", "--data", '{"name": "Bob"}')).out
    missing = await receiver("templates", "preview", "welcome", "--data", '{"name": "Bob"}')
    assert (missing.code, "'order' is undefined: give it a value in `data`" in missing.err) == (1, True)
    assert (await receiver("send-test", "main", "me@example.com", "--template", "welcome")).code == 0
    assert [(mail["To"], mail["Subject"]) for mail in sending.peer.taken] == [("me@example.com", "Hi Ada")]
    sending.peer.mail = deque(["550 5.7.1 not you"])
    refused = await receiver("send-test", "main", "me@example.com")
    assert (refused.code, "not you" in refused.err) == (1, True)
    assert "it has main" in (await receiver("send-test", "other", "me@example.com")).err
    path = tmp_path / "receiver.toml"
    path.write_text(path.read_text().replace('tls = "none"', ""))
    without = (await receiver("send-test", "main", "me@example.com")).err
    assert ("(a setting of the account)" in without, 'Set tls = "tls" or "none"' in without) == (True, True)
