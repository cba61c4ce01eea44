"""The benchmark itself, on a handful of events."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_tiny_run_measures_and_checks_itself(tmp_path: Path) -> None:
    """a run of the benchmark stores what was acknowledged and writes the ratios."""
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", "--pairs", "1", "--singles", "100", "--batches", "2", "--out", str(out)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1], capture_output=True, timeout=120)
    results = json.loads(out.read_text())
    assert results["stored"] == results["acknowledged"] > 0
    assert {"single_ratio", "batch_ratio", "dispatch3_ratio", "cpu_us"} <= set(results)
