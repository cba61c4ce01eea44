"""Exports of people, by the command line, and what a file gives back."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.contacts.csv_cells import escaped, unescaped
from receiver.contacts.exporting import Csv, JsonLines
from receiver.contacts.files import look_through
from receiver.contacts.people import Reading, mapping
from tests.cli import Receiver
from tests.people import contact, everything, people

NOW = datetime(2026, 11, 1, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
TRICKY = TEXT | st.sampled_from(
    ["=1+1", "'=1", "''@", "\t", "\r\n", "\uff1d", "007", "1e5", "null", "true", '"', "[1]", ""]
)
STRIPPED = TRICKY.map(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TRICKY,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TRICKY, inner, max_size=2),
    max_leaves=3,
)
PEOPLE = st.fixed_dictionaries(
    {
        "address": st.sampled_from(["Ann+x@example.com", "+a@example.com", "-b@example.com", "=c@x.test"]),
        "external_id": st.none() | STRIPPED.filter(bool),
        "name": st.none() | STRIPPED.filter(bool),
        "locale": st.sampled_from([None, "de-AT"]),
        "time_zone": st.sampled_from([None, "Europe/Vienna"]),
        "tags": st.lists(STRIPPED.filter(bool), unique=True, max_size=2),
        "attributes": st.dictionaries(TRICKY, JSON, max_size=2).map(json.dumps),
        "topics": st.just('{"news": "subscribed"}'),
    }
)


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with people(database) as connection:
        yield connection


@given(TRICKY)
def test_escaping_is_undone_exactly(cell: str) -> None:
    """no escaped cell begins as a formula does, and each is read back as it was"""
    assert not escaped(cell).startswith(tuple("=+-@\t\r\n"))
    assert unescaped(escaped(cell)) == cell


def as_sorted(value: Any) -> str:
    """As JSON: 1, 1.0 and true are equal in Python."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])  # a small machine does much at once
@given(st.lists(PEOPLE, min_size=1, max_size=2))
def test_a_file_gives_back_who_went_in(
    format_: str, tmp_path_factory: pytest.TempPathFactory, given_people: list[dict[str, Any]]
) -> None:
    """who is exported and read again is the same, with every type and character"""
    into = StringIO()
    names = sorted({name for one in given_people for name in json.loads(one["attributes"])})
    writer = Csv(into, names, ["news"]) if format_ == "csv" else JsonLines(into)
    for one in given_people:
        writer.write(one)
    path = tmp_path_factory.getbasetemp() / f"people.{format_}"
    path.write_text(into.getvalue(), newline="", encoding="utf-8")
    listing = look_through(path)
    reading = Reading(fields=mapping(listing.columns, []), texts=format_ == "csv", now=NOW)
    for one, row in zip(given_people, listing.rows(), strict=True):
        person = reading.person(row.values)
        assert person.address.display == one["address"]
        assert list(person.tags) == one["tags"]
        assert as_sorted(person.attributes) == as_sorted(json.loads(one["attributes"]))
        for name in ("external_id", "name", "locale", "time_zone"):
            assert getattr(person, name) == one[name]


async def test_an_export_is_an_import(receiver: Receiver, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """a whole database of people goes out into one private file and comes back the same; choices choose"""
    (tmp_path / "a.csv").write_text("email,name,n\nAnn@example.com,=Ann,1\nbob@x.test,Bob,\n")
    (tmp_path / "b.csv").write_text("email\nbob@x.test\n")
    await receiver("contacts", "import", "a.csv", "--yes", "--tag", "vip")
    await receiver("contacts", "import", "b.csv", "--yes", "--topic", "news")
    for name in ("all.csv", "all.jsonl"):
        assert (await receiver("contacts", "export", "--out", name)).code == 0
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
        before = await everything(sql)
        again = await receiver("contacts", "import", name, "--yes", "--json")
        assert (again.rows[0]["unchanged"], again.rows[0]["rejected"], await everything(sql)) == (2, {}, before)
        await sql.execute("DELETE FROM contacts")
        await receiver("contacts", "import", name, "--yes")
        assert await everything(sql) == before
    assert sorted(await asyncio.to_thread(os.listdir, tmp_path)) == ["a.csv", "all.csv", "all.jsonl", "b.csv"]
    chosen = await receiver("contacts", "export", "--topic", "news", "--state", "subscribed", "--format", "jsonl")
    assert [row["address"] for row in chosen.rows] == ["bob@x.test"]
    assert "'=Ann" in (await receiver("contacts", "export", "--domain", "example.com")).out
    listed = (await receiver("contacts", "--tag", "vip", "--json")).rows
    assert [(row["address"], row["topics"]) for row in listed] == [
        ("bob@x.test", {"news": "subscribed"}),
        ("Ann@example.com", {}),
    ]
    assert "bob@x.test  Bob" in (await receiver("contacts", "list", "--topic", "news")).out
    (tmp_path / "s.json").write_text('{"attribute": "n", "equals": "1"}')
    assert (await receiver("segments", "save", "ones", "s.json")).code == 0
    assert [row["address"] for row in (await receiver("contacts", "list", "--segment", "ones", "--json")).rows] == [
        "Ann@example.com"
    ]
    for wrong in (("--topic", "nwes"), ("--state", "pending"), ("--segment", "twos")):
        assert (await receiver("contacts", "export", "--out", "no.csv", *wrong)).code == 1
    assert not (tmp_path / "no.csv").exists()
    assert (await contact(sql, "ann@example.com"))["display_address"] == "Ann@example.com"
