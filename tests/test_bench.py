"""The benchmark itself, on a handful of events."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads Linux's clocks of processes")


@contextmanager
def _bench(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run of one pair of very few events, with `tmp_path / "work"` for its temporary files."""
    temporary = tmp_path / "work"
    temporary.mkdir()
    size = ("--pairs", "1", "--singles", "64", "--batches", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *size, *arguments],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()  # it ends what it has started
        process.communicate(timeout=60)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_tiny_run_measures_and_checks_itself(tmp_path: Path) -> None:
    """a run writes the ratios, stores each event that it counts as acknowledged, and clears everything away."""
    out = tmp_path / "results.json"
    with _bench(tmp_path, "--out", str(out)) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    results = json.loads(out.read_text())
    ratios = {"single_ratio", "batch_ratio", "dispatch3_ratio"}
    assert all(0 < results[name] < 1 for name in ratios)
    assert results["stored"] == results["distinct"] == results["acknowledged"] > 64 + 2 * 2 * 500
    assert set(results["cpu_us"]) == {"single", "batch", "dispatch3"}
    for costs in results["cpu_us"].values():
        assert costs["ours"] == pytest.approx(sum(cost for name, cost in costs.items() if name.startswith("ours_")))
    assert list((tmp_path / "work").iterdir()) == []


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """an interrupted run ends its processes and removes its files."""
    with _bench(tmp_path, "--only", "single", "--out", str(tmp_path / "results.json")) as process:
        assert process.stderr is not None
        assert "single" in process.stderr.readline()  # it has begun to measure
        children = _children(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("stopped\n")
    assert "Traceback" not in errors
    assert len(children) == 5  # Postgres, the floors, the service, the load
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert list((tmp_path / "work").iterdir()) == []
    assert not (tmp_path / "results.json").exists()


def test_contacts_are_measured_on_a_small_database_too(tmp_path: Path) -> None:
    """the bench of contacts fills a database, asks who may be mailed, runs both handlers, and clears everything away"""
    out, temporary = tmp_path / "contacts.json", tmp_path / "work"
    temporary.mkdir()
    size = ("--contacts", "500", "--events", "1000", "--pairs", "1", "--batches", "1")
    run = subprocess.run(
        [sys.executable, "-m", "bench.contacts", *size, "--out", str(out)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text())
    assert found["sendable"]["answers"].keys() >= {
        "sendable",
        "not_subscribed",
        "hard_bounce",
        "unsubscribed",
        "pending",
    }
    assert any("Index" in line for line in found["sendable"]["plan"])
    assert 0 < found["merge"]["ratio"] < 2
    assert list(temporary.iterdir()) == []
