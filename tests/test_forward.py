"""The shipped handler `forward`: events to a URL of one's own, by a real server in a process of its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import jsonschema
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from receiver import Endpoint, Handler
from receiver.cloudevents import json_schema
from receiver.endpoint import LONGEST_REST, REST, batch_id, rest_after
from receiver.errors import ConfigError
from receiver.outbound import Answer
from receiver.plugins.loading import load_handlers
from receiver.signers.standard_webhooks import new_secret
from receiver.testing import event
from tests import http_sink
from tests.cli import command_for
from tests.http_sink import Sink
from tests.log_events import store
from tests.workers import all_read, prepared, running, true, value

HANDLERS = Path(__file__).parents[1] / "handlers"
SECRET = new_secret()


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[Sink]:
    async with http_sink.running(tmp_path / "sink") as one:
        yield one


def configured(place: str, **settings: Any) -> Handler:
    """The shipped handler as the service loads it."""
    table = {"url": place, "secret": SECRET, "private": True, **settings}
    (found,) = [one for one in load_handlers(HANDLERS, settings={"forward": table}) if one.name == "forward"]
    return replace(found, run=found.run.model_copy(update={"first_delay": 0.05, "breaker": 0}))


async def soon(connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE retries SET next_at = now()")


async def test_signed_batches(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """every event comes once, in batches that standardwebhooks verifies and that are CloudEvents by our schema"""
    forward = configured(sink.url)
    await prepared(sql, [forward])
    ids = await store(sql, 250, shard=3, message_id=lambda n: f"m{n}")
    async with running(database, forward):
        await true(lambda: len(sink.taken()) >= 250)
        await all_read(sql)
    assert Counter(sink.taken()) == Counter(map(str, ids))
    validator = jsonschema.Draft202012Validator(json.loads(json_schema()))
    for request in sink.requests:
        assert request["path"] == "/events"
        assert request["headers"]["content-type"] == "application/cloudevents-batch+json"
        events = Webhook(SECRET).verify(request["body"], request["headers"])
        assert 1 <= len(events) <= 100
        assert all(validator.is_valid(one) for one in events)
        assert "raw" not in events[0]["data"]
        with pytest.raises(WebhookVerificationError):
            Webhook(new_secret()).verify(request["body"], request["headers"])
    assert len({request["headers"]["webhook-id"] for request in sink.requests}) == len(sink.requests)


async def test_settings(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """types, machines, tests and raw choose what is sent, and each of several secrets verifies it"""
    second = new_secret()
    forward = configured(sink.url, types=["clicked", "bounced"], secret=[SECRET, second], raw=True, machines=True)
    await prepared(sql, [forward])
    wanted = [
        *await store(sql, 1, type="bounced", raw='{"a": 1}'),
        *await store(sql, 1, type="clicked", actor="machine", raw='{"a": 1}'),
    ]
    await store(sql, 2)
    await store(sql, 1, type="bounced", is_test=True)
    async with running(database, forward):
        await all_read(sql)
    assert Counter(sink.taken()) == Counter(map(str, wanted))
    for request in sink.requests:
        for secret in (SECRET, second):
            events = Webhook(secret).verify(request["body"], request["headers"])
            assert events[0]["data"]["raw"] == {"a": 1}


async def test_hard_bounces_of_transactional_mail(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """streams and bounce_categories leave out bounces of other mail and other kinds; of our own sends we know it"""
    chosen = {"types": ["bounced", "complained"], "streams": ["transactional"], "bounce_categories": ["hard"]}
    forward = configured(sink.url, **chosen)
    await prepared(sql, [forward])
    bounce = {"type": "bounced", "stream": "transactional", "bounce_category": "hard"}
    wanted = [
        *await store(sql, 1, **bounce),
        *await store(sql, 1, type="complained", stream="transactional"),
    ]
    for other in ({"stream": "marketing"}, {"stream": None}, {"bounce_category": "soft"}, {"type": "delivered"}):
        await store(sql, 1, **bounce | other)
    for stream, chosen_too in (("transactional", True), ("marketing", False)):
        insert = "INSERT INTO sends (key, recipient, template, stream, handler) VALUES ($1, 'a@x.test', '', $1, 'h')"
        send = await sql.fetchval(f"{insert} RETURNING id", stream)
        found = await store(sql, 1, **bounce | {"stream": None, "metadata": json.dumps({"send_id": str(send)})})
        wanted += found if chosen_too else []
    await store(sql, 1, **bounce | {"stream": None, "metadata": '{"send_id": "none of ours"}'})
    async with running(database, forward):
        await all_read(sql)
    assert Counter(sink.taken()) == Counter(map(str, wanted))


async def test_inert_unless_configured(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """without its table the handler is not there, and nothing complains; the other shipped ones are"""
    assert {one.name for one in load_handlers(HANDLERS)} == {"engagement", "follow_up", "reports", "suppression"}
    receiver = command_for(database, tmp_path, capsys, monkeypatch)
    monkeypatch.setenv("RECEIVER_HANDLERS_DIR", str(HANDLERS))
    for name, text in (("PROVIDER", "postmark"), ("USERNAME", "hooks"), ("PASSWORD", "a password that is long enough")):
        monkeypatch.setenv(f"RECEIVER_SOURCES__SHOP__{name}", text)
    checked = await receiver("check")
    assert checked.code == 0, checked.err
    assert "forward" not in checked.out + checked.err
    monkeypatch.setenv("RECEIVER_HANDLERS__FORWARD__URL", "https://events.example.net/in")
    assert "handlers.forward.secret" in (await receiver("check")).err
    monkeypatch.setenv("RECEIVER_HANDLERS__FORWARD__SECRET", SECRET)
    checked = await receiver("check")
    assert checked.code == 0, checked.err
    assert "forward" in checked.out


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"url": "http://events.example.net/", "private": False}, "plain http"),
        ({"url": "ftp://events.example.net/"}, "https://"),
        ({"url": "https://user:pass@events.example.net/"}, "user's name"),
        ({"url": "events"}, "https://"),
        ({"secret": "short"}, "whsec_"),
        ({"secret": "whsec_AAAA"}, "whsec_"),
        ({"secret": []}, "at least 1"),
        ({"types": ["opend"]}, "Input should be"),
        ({"urls": "x"}, "is not known"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], wrong: str) -> None:
    """what is wrong with its settings stops the start, says why, and shows no secret"""
    with pytest.raises(ConfigError, match=wrong) as caught:
        configured("https://events.example.net/", **settings)
    assert SECRET not in str(caught.value)
    assert "pass@" not in str(caught.value)


async def test_a_refused_event_is_given_up_alone(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """an event that the URL will never take becomes a dead letter at once; the others of its batch arrive"""
    forward = configured(sink.url)
    await prepared(sql, [forward])
    ids = await store(sql, 9, shard=3, subject="fine")
    (bad,) = await store(sql, 1, shard=3, subject="poisoned", recipient="ann.secret@example.com")
    sink.answer(422, "cannot read ann.secret@example.com", poison="poisoned")
    async with running(database, forward):
        await value(sql, "SELECT count(*) FROM dead_letters", 1)
        await true(lambda: len(set(sink.taken())) == 9)
    row = await sql.fetchrow("SELECT event_id, attempts, error_type, error FROM dead_letters")
    assert row is not None
    assert (row["event_id"], row["attempts"], row["error_type"]) == (bad, 1, "GiveUp")
    assert row["error"] == "the URL answered 422: cannot read <address>"
    assert set(sink.taken()) == set(map(str, ids))
    assert await sql.fetchval("SELECT count(*) FROM retries") == 0


async def test_a_pause_is_kept(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """Retry-After is honoured without another request, costs no attempt, and then everything arrives"""
    forward = configured(sink.url)
    await prepared(sql, [forward])
    sink.answer(429, "slowly", retry_after="3")
    ids = await store(sql, 20, shard=3)
    async with running(database, forward):
        await value(sql, "SELECT breaker_probe_at > now() + interval '2 s' FROM handlers", expected=True)
        assert await sql.fetchval("SELECT breaker_probe_at < now() + interval '3 s' FROM handlers")
        assert len(sink.requests) == 1
        sink.answer(200)
        await all_read(sql)
    assert len(sink.requests) == 2
    assert Counter(sink.taken()) == Counter(map(str, ids))
    assert await sql.fetchval("SELECT count(*) FROM attempts") == 0


@pytest.mark.parametrize(("status", "words"), [(500, "answered 500"), (401, "answered 401"), (302, "answered 302")])
async def test_what_may_be_set_right_is_tried_again(
    database: str, sql: asyncpg.Connection, sink: Sink, status: int, words: str
) -> None:
    """other failures, and redirects, which are not followed, are tried again under the same ids"""
    forward = configured(sink.url)
    await prepared(sql, [forward])
    sink.answer(status, location="/elsewhere")
    (id_,) = await store(sql)
    async with running(database, forward):
        await value(sql, "SELECT attempt > 0 FROM retries", expected=True)
        assert words in await sql.fetchval("SELECT error FROM retries")
        sink.answer(200)
        await soon(sql)
        await value(sql, "SELECT count(*) FROM retries", 0)
    assert {request["path"] for request in sink.requests} == {"/events"}
    assert len({request["headers"]["webhook-id"] for request in sink.requests}) == 1
    assert [one["id"] for one in json.loads(sink.requests[-1]["body"])] == [str(id_)]


async def test_an_outage_spends_no_event(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """a URL that fails for everything opens the breaker after a few requests; back again, all events arrive"""
    forward = configured(sink.url)
    forward = replace(forward, run=forward.run.model_copy(update={"breaker": 5}))
    await prepared(sql, [forward])
    sink.answer(500)
    ids = await store(sql, 200, shard=3)
    async with running(database, forward):
        await value(sql, "SELECT breaker_since IS NOT NULL FROM handlers", expected=True)
        assert len(sink.requests) <= 20
        sink.answer(200)
        await sql.execute("UPDATE handlers SET breaker_probe_at = now()")
        await true(lambda: set(sink.taken()) == set(map(str, ids)))
        await value(sql, "SELECT breaker_since IS NULL FROM handlers", expected=True)
    assert await sql.fetchval("SELECT count(*) FROM dead_letters") == 0


async def test_nobody_answers(database: str, sql: asyncpg.Connection) -> None:
    """a URL at which nobody listens is tried again, and named by its host alone"""
    forward = configured("http://127.0.0.1:1/secret-path")
    await prepared(sql, [forward])
    await store(sql)
    async with running(database, forward):
        await value(sql, "SELECT attempt > 0 FROM retries", expected=True)
    row = await sql.fetchrow("SELECT error, traceback FROM attempts ORDER BY id LIMIT 1")
    assert row is not None
    assert "127.0.0.1 could not be called" in row["error"]
    assert "secret-path" not in row["error"]


async def test_private_addresses_need_permission(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """without private = true nothing is sent to an address that is not public"""
    forward = configured(sink.url.replace("http://127.0.0.1", "https://localhost"), private=False)
    await prepared(sql, [forward])
    await store(sql)
    async with running(database, forward):
        await value(sql, "SELECT attempt > 0 FROM retries", expected=True)
    assert "not a public address" in await sql.fetchval("SELECT error FROM retries")
    assert sink.requests == []


async def test_replays(
    database: str,
    sql: asyncpg.Connection,
    sink: Sink,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """a replay posts nothing unless it is asked for side effects, and then the same event comes with the same id"""
    receiver = command_for(database, tmp_path, capsys, monkeypatch)
    forward = configured(sink.url)
    await prepared(sql, [forward])
    (id_,) = await store(sql)
    async with running(database, forward):
        await true(lambda: len(sink.taken()) == 1)
        await all_read(sql)
        words = ("replay", "--handler", "forward", "--since", "1h", "--yes")
        assert (await receiver(*words)).code == 0
        assert len(sink.taken()) == 1
        assert (await receiver(*words, "--with-side-effects")).code == 0
    assert sink.taken() == [str(id_)] * 2
    first, second = (request["headers"]["webhook-id"] for request in sink.requests)
    assert first == second


def test_request_ids() -> None:
    """the same events have the same request id, others another"""
    one, two = event("bounced"), event("bounced")
    assert batch_id([one, two]) == batch_id([one, two])
    assert len({batch_id([one, two]), batch_id([two, one]), batch_id([one]), batch_id([two])}) == 4


@pytest.mark.parametrize(
    ("status", "header", "expected"),
    [
        (429, "7", 7.0),
        (500, "7", 7.0),
        (503, "Fri, 20 Nov 2026 12:00:30 GMT", 30.0),
        (503, "Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        (429, "9999999999", LONGEST_REST),
        (429, "soon", REST),
        (429, "-5", REST),
        (429, "", REST),
        (503, None, REST),
        (500, None, 0.0),
        (200, "7", 0.0),
    ],
)
def test_rests(status: int, header: str | None, expected: float) -> None:
    """a Retry-After is read in both its forms and within bounds; 429 and 503 mean a pause without one too"""
    answer = Answer(status, {} if header is None else {"retry-after": header}, b"")
    assert rest_after(answer, datetime(2026, 11, 20, 12, 0, tzinfo=UTC)) == expected


def test_secrets_do_not_show() -> None:
    """neither the settings nor the handler show a secret"""
    forward = configured("https://events.example.net/")
    assert SECRET.removeprefix("whsec_") not in repr(forward)
    assert isinstance(forward.settings, Endpoint)
    assert isinstance(forward.settings.secret[0], SecretStr)
