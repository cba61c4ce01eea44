"""A short run of `make chaos`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
