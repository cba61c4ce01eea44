"""What a run came to: as JSON for machines, as a table for people."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.measure import Bench, HalfLoad, Pair, Side, Size

TO_REACH: Final = {"single": 0.40, "batch": 0.45, "dispatch3": 0.33}
_PACKAGES: Final = ("uvicorn", "httptools", "uvloop", "asyncpg", "msgspec")


def results(bench: Bench, pairs: Mapping[str, Sequence[Pair]], half: HalfLoad | None, size: Size) -> dict[str, Any]:
    """What is written to `results.json`. CPU in microseconds per event (`floor` and `ours` are sums), medians."""
    found: dict[str, Any] = {f"{name}_ratio": median(pair.ratio for pair in of) for name, of in pairs.items()}
    found |= {
        "to_reach": {f"{name}_ratio": TO_REACH[name] for name in pairs},
        "spread": {f"{name}_ratio": [min(ratios), max(ratios)] for name, ratios in _ratios(pairs).items()},
        "cpu_us": {name: _cpu(of) for name, of in pairs.items()},
        "per_second": {name: _rates(of) for name, of in pairs.items()},
    }
    if half is not None:
        found["half_load"] = {"per_second": half.per_second, "p50_ms": half.p50_ms, "p99_ms": half.p99_ms}
    return found | {
        "acknowledged": bench.acknowledged,
        "stored": bench.stored,
        "distinct": bench.distinct,
        "pairs": {name: len(of) for name, of in pairs.items()},
        "size": {"singles": size.singles, "batches": size.batches},
        "machine": {"cpu": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "python": platform.python_version(),
            "postgres": bench.server.version,
            **{name: version(name) for name in _PACKAGES},
        },
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _ratios(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, list[float]]:
    return {name: [pair.ratio for pair in of] for name, of in pairs.items()}


def _cpu(pairs: Sequence[Pair]) -> dict[str, float]:
    floors, ours = [pair.floor for pair in pairs], [pair.ours for pair in pairs]
    return {
        "floor": median(side.total for side in floors) * 1e6,
        "ours": median(side.total for side in ours) * 1e6,
        **{f"floor_{name}": cost for name, cost in _parts(floors).items()},
        **{f"ours_{name}": cost for name, cost in _parts(ours).items()},
    }


def _parts(sides: Sequence[Side]) -> dict[str, float]:
    return {name: median(side.cpu[name] for side in sides) * 1e6 for name in sides[0].cpu}


def _rates(pairs: Sequence[Pair]) -> dict[str, float]:
    return {
        "floor": median(pair.floor.per_second for pair in pairs),
        "ours": median(pair.ours.per_second for pair in pairs),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def show(found: Mapping[str, Any]) -> None:
    """The tables for people; each fits 80 columns."""
    console = Console()
    console.print(_ratio_table(found))
    console.print(_cpu_table(found["cpu_us"]))
    if half := found.get("half_load"):
        console.print(
            f"At half load ({half['per_second']:.0f} single events/s) the answer takes "
            f"p50 {half['p50_ms']:.1f} ms, p99 {half['p99_ms']:.1f} ms."
        )
    console.print(f"Acknowledged {found['acknowledged']}, stored {found['stored']}, distinct {found['distinct']}.")


def _ratio_table(found: Mapping[str, Any]) -> Table:
    table = Table("", "ratio", "least-most", "to reach", "floor, events/s", "ours, events/s")
    for name, rates in found["per_second"].items():
        ratio, least = found[f"{name}_ratio"], found["to_reach"][f"{name}_ratio"]
        low, high = found["spread"][f"{name}_ratio"]
        table.add_row(
            name,
            f"[{'green' if ratio >= least else 'red'}]{ratio:.3f}[/]",
            f"{low:.3f}-{high:.3f}",
            f"{least:.2f}",
            f"{rates['floor']:,.0f}",
            f"{rates['ours']:,.0f}",
        )
    return table


def _cpu_table(cpu: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table("CPU µs per event", "floor", "ours", "of which")
    for name, costs in cpu.items():
        parts = [f"{part.removeprefix('ours_')} {cost:.1f}" for part, cost in costs.items() if part.startswith("ours_")]
        table.add_row(name, f"{costs['floor']:.1f}", f"{costs['ours']:.1f}", ", ".join(parts))
    return table
