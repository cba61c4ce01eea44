"""The JSON form of an event: valid CloudEvents, and what the JSON Schema says, for everything that we can store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import jsonschema
import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat

from receiver.cloudevents import encode_batch, encode_event, json_schema
from receiver.event import Event, EventType
from receiver.ingest.normalize import row_of
from receiver.sources import Source
from receiver.store import wire
from receiver.store.intake import Row, write
from receiver.store.queries import get_event
from receiver.store.rows import select_list, to_event
from receiver.testing import event
from tests.cli import Receiver, command_for
from tests.provider_fixtures import Fixture, all_fixtures, items_of_fixture
from tests.service import PRIVACY

SCHEMA = json.loads(json_schema())
PAGE = Path(__file__).parents[1] / "docs" / "event-json.md"


def problems(value: Any) -> list[str]:
    """What is wrong with a JSON value by our schema."""
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


async def store(database: str, fixtures: Sequence[Fixture]) -> None:
    """Store what the receiving side would."""
    rows = [row for fixture in fixtures for row in await _rows(fixture)]
    connection = await asyncpg.connect(database)
    try:
        await wire.prepare(connection)
        await write(connection, rows, (), lock_timeout=2000, privacy=PRIVACY)
    finally:
        await connection.close()


async def _rows(fixture: Fixture) -> list[Row]:
    folder = fixture.folder
    provider = folder.provider()
    settings = folder.kind.Settings.model_validate({"provider": folder.name, **folder.settings})
    source = Source(name=folder.name, provider=provider, settings=settings)
    items = await items_of_fixture(fixture)
    return [row_of(source, item, reading, folder.now) for item in items for reading in provider.read(item)]


def test_the_schema_is_a_schema() -> None:
    """the schema is valid itself, describes every field that an event has and no other, and the page names them all"""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    fields = SCHEMA["$defs"]["data"]["properties"]
    assert set(fields) == set(Event.__struct_fields__) - {"shard", "gen", "txid", "position"}
    assert all(field["description"] for field in fields.values())
    assert [name for name in fields if f"| `{name}` |" not in PAGE.read_text()] == []


async def test_events_of_every_fixture(database: str, sql: asyncpg.Connection) -> None:
    """an event of every type of every provider is valid by our schema and as a CloudEvent, with its raw or not"""
    await store(database, all_fixtures())
    one_of_each = f"SELECT DISTINCT ON (provider, type) {select_list('events')} FROM events ORDER BY provider, type, id"
    stored = [to_event(row) for row in await sql.fetch(one_of_each)]
    assert len(stored) > 100
    assert {one.type for one in stored} > {EventType.BOUNCED, EventType.CLICKED, EventType.COMPLAINED}
    shown = set[str]()
    for one in stored:
        for raw in (True,) if one.provider in shown else (True, False):  # what stands around it is the same without it
            shown.add(one.provider)
            text = encode_event(one, raw=raw)
            value = json.loads(text)
            assert problems(value) == [], (one.provider, one.provider_type)
            read = JSONFormat().read(None, text)
            assert (read.get_id(), read.get_type()) == (str(one.id), f"email.{one.type}.v1")
            assert (read.get_source(), read.get_time()) == (f"/providers/{one.provider}/{one.source}", one.occurred_at)
            assert read.get_subject() == one.message_id
            assert value["data"].get("raw") == (one.raw_object() if raw else None)
            again = msgspec.convert(
                value["data"] | {"shard": 0, "gen": 0, "txid": 0, "position": 0, "raw": one.raw}, Event
            )
            same = msgspec.structs.replace(one, shard=0, gen=0, txid=0, position=0)
            assert msgspec.structs.asdict(same) == msgspec.structs.asdict(again)


@pytest.mark.parametrize(
    "wrong",
    [
        {"specversion": "0.3"},
        {"id": "7"},
        {"source": "postmark"},
        {"type": "bounced"},
        {"subject": ""},
        {"time": "yesterday"},
        {"data": {}},
        {"data": {"smtp_code": "550"}},
        {"data": {"client_ip": "here"}},
        {"data": {"tags": "one"}},
    ],
)
def test_the_schema_refuses(wrong: dict[str, Any]) -> None:
    """the schema finds what is wrong in each part, so that the test above can fail"""
    value = json.loads(encode_event(event("bounced")))
    assert problems(value) == []
    data = wrong.get("data")
    changed = wrong if not data else {"data": value["data"] | data}
    assert problems(value | changed)


@pytest.mark.parametrize(
    ("message_id", "subject"),
    [("abc@x", "abc@x"), (None, None), ("", None), ("\x00\x1f\x7f\x9f", None), ("a\nb\ufffe\U0001ffffc", "abc")],
)
def test_subjects(message_id: str | None, subject: str | None) -> None:
    """the subject is the message's id without what CloudEvents forbids, and absent where nothing is left"""
    value = json.loads(encode_event(event("bounced", message_id=message_id)))
    assert value.get("subject") == subject
    assert value["data"].get("message_id") == message_id


def test_odd_events() -> None:
    """names are escaped in the source, large numbers and odd characters survive, and a batch is an array"""
    odd = event(
        "clicked",
        source="my shop/ü",
        raw='{"n": 123456789012345678901234567890, "t": "\\u0001"}',
        metadata={"n": 2**60, "f": 1.5},
        url="https://example.com/\u202e<script>",
    )
    text = encode_event(odd, raw=True).decode()
    assert "123456789012345678901234567890" in text
    value = json.loads(text)
    assert problems(value) == []
    assert value["source"] == "/providers/test/my%20shop%2F%C3%BC"
    assert value["data"]["metadata"] == {"n": 2**60, "f": 1.5}
    assert value["data"]["url"] == odd.url
    batch = json.loads(encode_batch([odd, event("bounced")]))
    assert [one["type"] for one in batch] == ["email.clicked.v1", "email.bounced.v1"]
    assert encode_batch([]) == b"[]"


def test_the_documented_example() -> None:
    """the example in the documents is valid"""
    text = PAGE.read_text().partition("```json\n")[2].partition("```")[0]
    assert problems(json.loads(text)) == []
    assert datetime.fromisoformat(json.loads(text)["time"]).tzinfo is not None


async def test_printing_it(
    database: str,
    sql: asyncpg.Connection,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """the command line prints an event in this form, on one line, and the schema"""
    await store(database, all_fixtures()[:1])
    id_ = await sql.fetchval("SELECT id FROM events LIMIT 1")
    receiver: Receiver = command_for(database, tmp_path, capsys, monkeypatch)
    shown = await receiver("events", "show", str(id_), "--cloudevent")
    stored = await get_event(sql, id_)
    assert stored is not None
    assert shown.rows == [json.loads(encode_event(stored))]
    assert json.loads((await receiver("events", "schema")).out) == SCHEMA
