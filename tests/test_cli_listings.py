"""The listings of the command line, over what the real service stored."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from receiver.cli.options import moment
from receiver.event import Event, EventType
from receiver.printable import printable
from receiver.store.failures import bury
from receiver.store.log import create_cursors
from receiver.store.queries import EventFilter, Follower
from tests.cli import Receiver
from tests.service import Played, Running, play, running
from tests.waiting import until

HOSTILE = "\x1b]0;owned\x07[bold]x[/bold]\u202e\x9b31m"


@pytest.fixture
def played(tmp_path: Path) -> Sequence[Played]:
    return play("sendgrid", tmp_path), play("postmark", tmp_path, name="shop")


@pytest.fixture
async def service(database: str, played: Sequence[Played]) -> AsyncIterator[Running]:
    async with running(database, *played) as one:
        yield one


async def send(
    service: Running, played: Played, type_: EventType, *recipients: str, ago: timedelta = timedelta()
) -> None:
    at = datetime.now(UTC) - ago
    for post in played.posts(type_, *recipients, at=at, run=f"{type_}-{ago}"):
        assert (await service.post(played.source.name, post)).status_code == 200


async def test_events_as_json(receiver: Receiver, service: Running, played: Sequence[Played]) -> None:
    """a listed event has every column of the table, its raw object nested, one line each, the newest last"""
    await send(service, played[0], EventType.DELIVERED, "a@one.test", ago=timedelta(minutes=2))
    await send(service, played[1], EventType.BOUNCED, "b@one.test")
    listed = await receiver("events", "list", "--json")
    columns = {
        row[0]
        for row in await service.connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0 AND NOT attisdropped"
        )
    }
    assert [row["recipient"] for row in listed.rows] == ["a@one.test", "b@one.test"]
    assert [set(row) for row in listed.rows] == [columns, columns]
    assert listed.rows[0]["raw"]["email"] == "a@one.test"
    assert (await receiver("events", "--json")).out == listed.out  # `list` need not be said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--type", "bounced"), ["b@one.test", "old@one.test"]),
        (("--type", "bounced", "--type", "opened"), ["b@one.test", "c@one.test", "old@one.test"]),
        (("--source", "shop"), ["b@one.test", "old@one.test"]),
        (("--provider", "sendgrid"), ["a@one.test", "c@one.test"]),
        (("--recipient", "A@ONE.test"), ["a@one.test"]),
        (("--recipient", "old@one.test"), ["old@one.test"]),
        (("--since", "10m"), ["a@one.test", "b@one.test", "c@one.test"]),
        (("--until", "1d"), ["old@one.test"]),
        (("--since", "2d", "--until", "1d"), []),
        (("--limit", "1", "--type", "opened"), ["c@one.test"]),
        (("--no-tests",), ["a@one.test", "b@one.test", "c@one.test", "old@one.test"]),
        (("--tests",), []),
        (("--source", "nothing"), []),
    ],
)
async def test_event_filters(
    receiver: Receiver, service: Running, played: Sequence[Played], options: Sequence[str], expected: list[str]
) -> None:
    """each filter finds what it names, however old it is"""
    await send(service, played[0], EventType.DELIVERED, "a@one.test")
    await send(service, played[1], EventType.BOUNCED, "b@one.test")
    await send(service, played[0], EventType.OPENED, "c@one.test")
    await send(service, played[1], EventType.BOUNCED, "old@one.test", ago=timedelta(days=40))
    listed = await receiver("events", "list", "--json", *options)
    assert sorted(row["recipient"] for row in listed.rows) == expected


async def test_event_by_message_and_id(receiver: Receiver, service: Running, played: Sequence[Played]) -> None:
    """an event is found by its message's id, and shown by its own, with our columns and the provider's object"""
    await send(service, played[1], EventType.BOUNCED, "b@one.test")
    (row,) = await service.events()
    (found,) = (await receiver("events", "list", "--json", "--message-id", row["message_id"])).rows
    assert found["id"] == str(row["id"])
    shown = await receiver("events", "show", found["id"])
    assert "bounce_category" in shown.out
    assert '"RecordType": "Bounce"' in shown.out
    (as_json,) = (await receiver("events", "show", found["id"], "--json")).rows
    assert as_json == found
    gone = await receiver("events", "show", str(uuid4()))
    assert gone.code == 1
    assert "there is no event" in gone.err


@pytest.mark.parametrize("columns", [None, "80", "200"])
async def test_hostile_texts(
    receiver: Receiver,
    service: Running,
    played: Sequence[Played],
    columns: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """nothing in an event drives a terminal or passes as markup: in a pipe, on a narrow and on a wide terminal"""
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr("receiver.cli.output.is_terminal", lambda: True)
    post = played[1].posts(EventType.BOUNCED, "b@one.test")[0]
    body = json.loads(post.body) | {"Subject": HOSTILE, "Tag": HOSTILE, "Details": HOSTILE}
    await service.post("shop", type(post)(headers=post.headers, body=json.dumps(body).encode()))
    (row,) = await service.events()
    for arguments in (("list",), ("list", "--json"), ("show", str(row["id"])), ("show", str(row["id"]), "--json")):
        ended = await receiver("events", *arguments)
        assert ended.code == 0
        assert all(printable(line) == line for line in ended.out.splitlines()), arguments
    assert (await receiver("events", "list", "--json")).rows[0]["subject"] == HOSTILE
    assert "[bold]x[/bold]" in (await receiver("events", "show", str(row["id"]))).out


async def test_json_stays_on_one_line(receiver: Receiver, service: Running, played: Sequence[Played]) -> None:
    """raw JSON that came in several lines, with numbers of any size, is listed as one line and unchanged"""
    post = played[1].posts(EventType.BOUNCED, "b@one.test")[0]
    body = json.dumps(json.loads(post.body) | {"Big": 12345678901234567890123, "Small": 1}, indent=2)
    await service.post("shop", type(post)(headers=post.headers, body=body.encode()))
    (row,) = (await receiver("events", "--json")).rows
    assert row["raw"]["Big"] == 12345678901234567890123
    assert (await receiver("events", "show", row["id"])).code == 0


async def test_follow_loses_no_late_commit(database: str, service: Running, played: Sequence[Played]) -> None:
    """--follow shows events in the order they are committed, each once, also when an older transaction commits late"""
    await send(service, played[0], EventType.DELIVERED, "before@one.test")
    late = await asyncpg.connect(database)
    reader = await asyncpg.connect(database)
    try:
        follower = Follower(EventFilter(types=["delivered"]))
        transaction = late.transaction()
        await transaction.start()
        await late.execute(
            "INSERT INTO events (id, occurred_at, type, source, provider, provider_type, recipient, shard) "
            "VALUES ($1, now(), 'delivered', 'sendgrid', 'sendgrid', 'delivered', 'late@one.test', 7)",
            uuid4(),
        )
        await follower.start(reader)
        await send(service, played[0], EventType.DELIVERED, "x@one.test", "y@one.test")
        await send(service, played[0], EventType.OPENED, "other@one.test")
        seen = [sorted(json.loads(text)["recipient"] for text in await follower.look(reader)) for _ in range(2)]
        await transaction.commit()
        seen += [[json.loads(text)["recipient"] for text in await follower.look(reader)] for _ in range(2)]
        assert seen == [["x@one.test", "y@one.test"], [], ["late@one.test"], []]
    finally:
        await late.close()
        await reader.close()


async def test_follow_prints(database: str, tmp_path: Path, service: Running, played: Sequence[Played]) -> None:
    """events --follow prints what comes while it runs, and ends quietly with Ctrl-C"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "receiver", "events", "--follow", "--json"),
        env={**os.environ, "RECEIVER_DATABASE": database, "PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None

    async def following() -> bool:
        assert process.returncode is None
        looking = "application_name = 'receiver-cli' AND query LIKE '%pg_visible%'"
        return bool(await service.connection.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {looking}"))

    await until(following)
    await send(service, played[0], EventType.DELIVERED, "new@one.test")
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    assert json.loads(line)["recipient"] == "new@one.test"
    process.send_signal(2)
    _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")


async def quarantined(service: Running, played: Played) -> int:
    post = played.posts(EventType.BOUNCED, "b@one.test")[0]
    await service.post("shop", type(post)(headers=post.headers, body=b'"secret body, no event"'))
    return int(await service.connection.fetchval("SELECT max(id) FROM quarantine"))


async def test_quarantine(receiver: Receiver, service: Running, played: Sequence[Played]) -> None:
    """quarantine is listed and shown redacted; --reveal shows it and leaves a row in audit_log; discard closes it"""
    id_ = await quarantined(service, played[1])
    (row,) = (await receiver("quarantine", "list", "--json")).rows
    assert (row["id"], row["source"], row["kind"]) == (id_, "shop", "item")
    shown = await receiver("quarantine", "show", str(id_))
    assert "secret body" not in shown.out
    assert "--reveal" in shown.out
    assert await service.count("audit_log") == 0
    revealed = await receiver("quarantine", "show", str(id_), "--reveal")
    assert "secret body, no event" in revealed.out
    assert "authorization" in revealed.out
    audit = await service.connection.fetchrow("SELECT who, action, subject FROM audit_log")
    assert audit is not None
    assert audit["who"]
    assert (audit["action"], audit["subject"]) == ("reveal", f"quarantine {id_}")
    (as_json,) = (await receiver("quarantine", "show", str(id_), "--reveal", "--json")).rows
    assert as_json["body"] == '"secret body, no event"'
    assert (await receiver("quarantine", "discard", str(id_), "--reason", "a test")).code == 0
    assert (await receiver("quarantine", "--json")).rows == []
    (closed,) = (await receiver("quarantine", "--json", "--all")).rows
    assert (closed["resolution"], closed["reason"]) == ("discarded", "a test")
    assert (await receiver("quarantine", "discard", str(id_))).code == 1


async def test_reveal_leaves_its_trace_first(
    receiver: Receiver, service: Running, played: Sequence[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    """with another secret key nothing is revealed, but the attempt is recorded"""
    id_ = await quarantined(service, played[1])
    monkeypatch.setenv("RECEIVER_SECRET_KEY", "another key, with characters enough 0123456789")
    ended = await receiver("quarantine", "show", str(id_), "--reveal")
    assert ended.code == 1
    assert "secret_key" in ended.err
    assert "secret body" not in ended.out
    assert await service.count("audit_log") == 1
    assert (await receiver("quarantine", "show", "999")).code == 1


async def test_refused(receiver: Receiver, service: Running, played: Sequence[Played]) -> None:
    """refused requests are listed with their reason, and shown redacted unless revealed"""
    post = played[1].posts(EventType.BOUNCED, "b@one.test")[0]
    wrong = dict(post.headers) | {
        name: "Basic d3Jvbmc6d3Jvbmc=" for name in post.headers if name.lower() == "authorization"
    }
    await service.post("shop", type(post)(headers=wrong, body=post.body))

    async def kept() -> bool:
        return await service.count("refused") == 1

    await until(kept)
    (row,) = (await receiver("refused", "list", "--json")).rows
    assert (row["source"], row["reason"], row["client_ip"]) == ("shop", "wrong_credentials", "127.0.0.1")
    assert (await receiver("refused", "--json", "--reason", "stale")).rows == []
    assert "d3Jvbmc" not in (await receiver("refused", "show", str(row["id"]))).out
    assert "d3Jvbmc" in (await receiver("refused", "show", str(row["id"]), "--reveal")).out
    assert await service.connection.fetchval("SELECT subject FROM audit_log") == f"refused {row['id']}"


async def dead(service: Running) -> int:
    event = Event(
        id=UUID(int=5),
        type=EventType.BOUNCED,
        source="shop",
        provider="postmark",
        occurred_at=datetime.now(UTC),
        received_at=datetime.now(UTC),
        provider_type="Bounce",
        shard=3,
        gen=1,
        txid=1,
        position=1,
        recipient="b@one.test",
        raw='{"Type": "HardBounce"}',
    )
    await bury(
        service.connection,
        "mailer",
        event,
        attempts=8,
        error_type="ValueError",
        error="boom",
        traceback="line 1\nline 2",
    )
    return int(await service.connection.fetchval("SELECT max(id) FROM dead_letters"))


async def test_dead_letters(receiver: Receiver, service: Running) -> None:
    """dead letters are listed, shown with their event, retried and discarded, and who did it is recorded"""
    await create_cursors(service.connection, ["mailer"])
    id_ = await dead(service)
    (row,) = (await receiver("dead-letters", "list", "--json")).rows
    assert (row["handler"], row["attempts"], row["error"]) == ("mailer", 8, "boom")
    assert (await receiver("dead-letters", "--json", "--handler", "other")).rows == []
    shown = await receiver("dead-letters", "show", str(id_))
    assert "line 2" in shown.out
    assert "HardBounce" in shown.out
    assert (await receiver("dead-letters", "show", str(id_), "--json")).rows[0]["event"]["recipient"] == "b@one.test"
    assert (await receiver("dead-letters", "retry", str(id_))).code == 0
    assert await service.count("retries") == 1
    assert (await receiver("dead-letters", "retry", str(id_))).code == 1
    assert (await receiver("dead-letters", "--json")).rows == []
    second = await dead(service)
    assert (await receiver("dead-letters", "discard", str(second), "--reason", "typo", "--yes")).code == 0
    assert {row["resolution"] for row in (await receiver("dead-letters", "--json", "--all")).rows} == {
        "retried",
        "discarded",
    }
    assert await service.count("audit_log") == 2


async def test_handlers(receiver: Receiver, service: Running, played: Sequence[Played]) -> None:
    """handlers are listed with what they have not read yet"""
    none = await receiver("handlers")
    assert (none.code, none.out) == (0, "")
    await create_cursors(service.connection, ["mailer"])
    await send(service, played[0], EventType.DELIVERED, "a@one.test", "b@one.test")
    (row,) = (await receiver("handlers", "--json")).rows
    assert (row["handler"], row["lag_events"], row["dead_letters"]) == ("mailer", 2, 0)
    assert "mailer" in (await receiver("handlers")).out


async def test_sources(
    receiver: Receiver, service: Running, played: Sequence[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    """sources are listed with name, provider, URL and state, never with a secret; --all adds the other providers"""
    assert (await receiver("sources", "--json")).rows == []
    secret = "Zz9-postmark-password-of-the-test"
    raw = {
        "shop": {"provider": "postmark", "password": secret},
        "wrong": {"provider": "mailgun"},
    }
    monkeypatch.setenv("RECEIVER_SOURCES", json.dumps(raw))
    monkeypatch.setenv("RECEIVER_PUBLIC_URL", "https://hooks.example.net")
    await send(service, played[1], EventType.BOUNCED, "b@one.test")
    shop, wrong = (await receiver("sources", "--json")).rows
    assert shop["name"] == "shop"
    assert shop["provider"] == "postmark"
    assert shop["url"] == "https://hooks.example.net/webhooks/shop"
    assert shop["configured"] is True
    assert shop["last_event"]
    assert "wrong" in wrong["state"]
    every = await receiver("sources", "--all", "--json")
    assert {row["provider"] for row in every.rows if not row["configured"]} >= {"sendgrid", "ses", "resend"}
    assert {row["label"] for row in every.rows} <= {"verified", "from documents", "recipe"}
    monkeypatch.setattr("receiver.cli.output.narrow", lambda width: width > 80)
    for options, head in (((), ["name", "url", "state"]), (("--all",), ["name", "label", "state"])):
        assert (await receiver("sources", *options)).out.splitlines()[0].split() == head
    shown = await receiver("sources", "show", "shop")
    assert "https://hooks.example.net/webhooks/shop" in shown.out
    assert "nothing of the body" in shown.out
    assert all(secret not in one.out for one in (every, shown, await receiver("sources")))
    unknown = await receiver("sources", "show", "shap")
    assert unknown.code == 1
    assert "did you mean shop?" in unknown.err


async def test_closed_pipe(database: str, tmp_path: Path, service: Running, played: Sequence[Played]) -> None:
    """a reader that stops early ends a listing without a word"""
    await send(service, played[0], EventType.DELIVERED, *(f"u{number}@one.test" for number in range(300)))
    done = await asyncio.to_thread(
        subprocess.run,
        ["/bin/sh", "-c", f"{sys.executable} -m receiver events --json --limit 300 | head -n 1"],
        env={**os.environ, "RECEIVER_DATABASE": database, "PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)
    assert done.stderr == ""


def test_moments() -> None:
    """a time is said as how long ago or as a date, in UTC unless it says otherwise"""
    assert datetime.now(UTC) - moment("2h") - timedelta(hours=2) < timedelta(minutes=1)
    assert moment("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert moment("2026-01-31T12:00+02:00") == datetime(2026, 1, 31, 10, tzinfo=UTC)
    for wrong in ("", "soon", "99999999d", "-1h"):
        with pytest.raises(Exception, match="say how long ago"):
            moment(wrong)


async def test_a_provider_explains_itself(receiver: Receiver) -> None:
    """what to tick, what to write, what it does without a success and what the proof covers stand in one place"""
    shown = await receiver("sources", "show", "sendgrid")
    assert shown.code == 0
    for words in (
        "/webhooks/sendgrid",
        "Event Webhook",
        "[sources.sendgrid]",
        "public_key =",
        "repeated for 24 hours",
        "401",
    ):
        assert words in shown.out
    page = await receiver("sources", "show", "sendgrid", "--page")
    for words in ("# Twilio SendGrid", "| `spamreport` | `complained` |", "Rests on", "## Answers"):
        assert words in page.out
