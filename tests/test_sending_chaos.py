"""A short run of `make chaos-sending`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.peers  # it needs none, but leases of killed processes last a minute: too long for each run
def test_a_short_chaos_keeps_the_promises(tmp_path: Path) -> None:
    """kills for some seconds while mail goes out: nothing is lost, nothing that must not come twice does"""
    chaos = subprocess.run(
        [
            *(sys.executable, "-m", "bench.sending_chaos"),
            *("--follow-ups", "60", "--no-clicks", "--no-limits", "--out", str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert chaos.returncode == 0, chaos.stderr
    report = (tmp_path / "sending-chaos.md").read_text()
    assert "Every promise has held." in report
    assert "| rows left queued or leased | 0 |" in report
