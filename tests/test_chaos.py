"""A short run of `make chaos`."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

from bench.chaos_load import Load
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
