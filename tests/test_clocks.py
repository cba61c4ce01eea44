"""Which clock decides: leases, due times and retention go by Postgres's, so that a jump of ours changes nothing."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import Final

import receiver

ROOT: Final = Path(receiver.__file__).parent
ROOMS: Final = ("dispatch", "store", "ingest", "watching", "maintenance.py")

# Where the wall clock of this machine is asked, how often, and what for.
ALLOWED: Final = {
    "dispatch/calling.py": 1,  # `ctx.now`, for handlers
    "dispatch/worker.py": 1,  # from when on a new handler asks for history, given as a length of time
    "store/event_pages.py": 1,  # the end of a page of the API that names none
    "store/queries.py": 1,  # the end of a listing that names none
    "watching/notices.py": 2,  # the time in a signature, which its receiver compares with its own; a name for a trial
}


def wall_clocks(source: str) -> int:
    """How many calls in a module ask for the time of day."""
    asked = ("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.time_ns")
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return sum(ast.unparse(call) in asked for call in calls)


def test_no_lease_and_no_due_time_depends_on_this_machines_clock() -> None:
    """what is stored, read, leased, retried and removed asks the wall clock in the few known places alone"""
    files = [
        file for room in ROOMS for file in ([ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"))
    ]
    found = Counter({str(file.relative_to(ROOT)): wall_clocks(file.read_text()) for file in files})
    assert dict(+found) == ALLOWED
    assert wall_clocks("from datetime import datetime\nx = datetime.now(UTC)\ny = time.time()") == 2


def test_leases_go_by_the_clock_and_not_by_the_start_of_a_transaction() -> None:
    """a transaction that began long ago, as behind a slow pooler, sees what time it is when it takes a lease"""
    for name in ("leases.py", "tasks.py"):
        text = (ROOT / "store" / name).read_text()
        assert "clock_timestamp()" in text
        assert not re.search(r"(?i)\b(now\(\)|current_timestamp|transaction_timestamp|statement_timestamp)", text)
