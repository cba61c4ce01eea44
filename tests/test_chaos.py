"""A short run of `make chaos`."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx
import pytest

from bench import chaos_counts
from bench.chaos_load import Load, Parcel
from bench.chaos_report import Effects, Result, document
from tests import http_sink
from tests.service import play
from tests.workers import true

ROOT = Path(__file__).parents[1]


def test_a_short_chaos_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """kills, crashes and cuts for a few seconds under load: nothing is lost or doubled, and a report is written."""
    chaos = subprocess.run(
        [sys.executable, "-m", "bench.chaos", "--seconds", "12", "--rate", "60", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert chaos.returncode == 0, chaos.stderr
    report = (tmp_path / "chaos.md").read_text()
    assert "Nothing was lost and nothing happened twice." in report
    assert "| of these missing in `events` | 0 |" in report
    assert "| attempts of these by answer | " in report
    assert (tmp_path / "images" / "chaos.png").read_bytes().startswith(b"\x89PNG")
    assert '| deliveries refused with "try again", then repeated and stored | ' in report


async def test_what_is_told_to_try_again_is_repeated_and_counted(tmp_path: Path) -> None:
    """a delivery refused with its provider's "try again" code, even twice, counts once and is sent until it is taken"""
    async with http_sink.running(tmp_path / "sink") as sink:
        sink.answer(503)
        load = Load(sink.url.removesuffix("/events"), [play("postmark", tmp_path)], 100, random.Random(1))
        loading = asyncio.create_task(load.run())
        await true(lambda: load.answers[503] > len(load.told_again) > 0)  # one was refused again
        sink.answer(200)
        load.stop()
        await asyncio.wait_for(loading, 60)
        refused = [request["body"] for request in sink.requests if request["refused"]]
    assert len(load.told_again) == len(set(refused)) < len(refused)
    assert load.taken >= {one for parcel in load.told_again for one in parcel.recipients}
    assert len(load.taken) == load.sent == load.answers[200]
    assert load.second_answers[200] == load.repeated


async def test_what_is_sent_twice_is_repeated_until_it_is_taken(tmp_path: Path) -> None:
    """a second copy that is refused counts for itself, and is sent until it is taken as well"""
    async with http_sink.running(tmp_path / "sink") as sink:

        class Refused(Load):
            async def _post(self, client: httpx.AsyncClient, parcel: Parcel) -> int:
                sink.answer(401 if parcel.second and not self.second_answers[401] else 200)
                return await super()._post(client, parcel)

        load = Refused(sink.url.removesuffix("/events"), [play("postmark", tmp_path)], 100, random.Random(1))
        loading = asyncio.create_task(load.run())
        await true(lambda: load.second_answers[401] > 0)
        load.stop()
        await asyncio.wait_for(loading, 60)
    assert load.second_answers[200] == load.repeated
    assert load.answers[200] == len(load.taken) == load.sent


async def test_the_count_waits_for_what_still_moves(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """effects that happen again late are counted: while a retry is left, and until nothing has moved for a while"""
    monkeypatch.setattr(chaos_counts, "REST", 3.0)
    await chaos_counts.make_tables(database)
    sql, event = await asyncpg.connect(database), uuid4()
    retry = "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at)"
    await sql.execute(f"{retry} VALUES ('flaky', $1, now(), 1, 'failed', now())", event)
    counting = asyncio.create_task(chaos_counts.counted(database))
    for number in range(8):
        await sql.execute("INSERT INTO flaky VALUES ($1)", event)
        await asyncio.sleep(0.2)  # a handler that is still at it
        if number == 4:
            await sql.execute("DELETE FROM retries")
    counts = await counting
    await sql.close()
    assert counts.handlers["flaky"] == Effects(effects=8, events=1, unknown=1)
    assert counts.retries == 0


GOOD: Final = Result(
    seconds=12,
    seed=1,
    sent=100,
    acknowledged=100,
    rows=100,
    missing=0,
    invented=0,
    doubled=0,
    told_again=3,
    stored_then=3,
    handlers={"one": Effects(100, 100), "two": Effects(100, 100)},
    dead_letters=0,
    retries=0,
    attempts={200: 90, 503: 4, 0: 7, 408: 1, 429: 1},
    repeated=9,
    second_attempts={200: 9, 503: 2, 0: 1},
    again=frozenset({503}),
    troubles=(),
    timeline=(),
)


def test_a_good_run_is_fine() -> None:
    """refusals that say "try again", no answer at all, and copies that were taken are what a run is made of"""
    assert GOOD.fine
    assert "Nothing was lost and nothing happened twice." in document(GOOD, "x.png")
    assert "| attempts of these by answer | 503: 2, 200: 9, no answer: 1 |" in document(GOOD, "x.png")


@pytest.mark.parametrize(
    ("counts", "wrong"),
    [
        ({"sent": 0, "acknowledged": 0, "rows": 0}, "1 runs in which nothing was taken"),
        ({"sent": 101}, "1 events sent and never answered with success"),
        ({"missing": 1}, "1 events answered with success and missing"),
        ({"invented": 1, "rows": 101}, "1 events stored that were not answered with success"),
        ({"doubled": 1, "rows": 101}, "1 events stored twice"),
        ({"stored_then": 2}, '1 deliveries told to "try again" and missing'),
        ({"dead_letters": 1}, "1 dead letters"),
        ({"retries": 1}, "1 retries left"),
        ({"attempts": {200: 90, 401: 2}}, "2 deliveries refused"),
        ({"attempts": {200: 90, 500: 1}}, "1 deliveries refused"),
        ({"second_attempts": {200: 9, 401: 28}}, "28 deliveries refused"),
        ({"second_attempts": {200: 8, 503: 1}}, "1 deliveries taken, sent again and not taken"),
        ({"handlers": {"one": Effects(99, 99, unseen=1)}}, "1 events that `one` has not seen"),
        ({"handlers": {"one": Effects(101, 100)}}, "1 effects of `one` that happened again"),
    ],
)
def test_each_fault_shows(counts: dict[str, Any], wrong: str) -> None:
    """whatever is lost, doubled, refused or left over makes a run wrong, and is named"""
    result = replace(GOOD, **counts)
    assert not result.fine
    assert result.told == wrong
    assert f"**WENT WRONG: {wrong}.**" in document(result, "x.png")


def test_faults_do_not_make_up_for_each_other() -> None:
    """an event that is missing although a handler has seen it, beside one that the other handler has not seen"""
    seen = {"one": Effects(100, 100, unknown=1), "two": Effects(98, 98, unseen=1)}
    assert replace(GOOD, rows=99, missing=1, handlers=seen).wrong == {
        "events answered with success and missing": 1,
        "events that `one` has seen and that are missing": 1,
        "events that `two` has not seen": 1,
    }
