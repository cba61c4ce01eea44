"""What a run of bench.sending_chaos came to, counted at the mail server and compared with the outbox."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bench.sending_limits import BUSY, BUSY_WORKERS, FOR, RATE, WORKERS, Busy, Rate
from bench.sending_peer import SLOWEST, Taken


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `sends` at the end."""

    id: str
    stream: str
    rule: str | None
    state: str
    reason: str | None
    message_id: str | None
    attempts: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """The counts of a run."""

    seed: int
    seconds: float
    expected: int
    rows: Sequence[Row]
    taken: Sequence[Taken]
    troubles: Sequence[str]
    busy: Busy | None
    rate: Rate | None

    @cached_property
    def _arrived(self) -> Counter[str]:
        return Counter(one.send_id for one in self.taken)

    def _of(self, stream: str) -> list[Row]:
        return [row for row in self.rows if row.stream == stream]

    def _again(self, stream: str) -> int:
        return sum(max(self._arrived[row.id] - 1, 0) for row in self._of(stream))

    def _missing(self, stream: str) -> list[Row]:
        return [row for row in self._of(stream) if not self._arrived[row.id]]

    @property
    def wrong(self) -> dict[str, int]:
        """What must be 0."""
        known = {row.id: row.message_id for row in self.rows}
        told = ("unknown", "failed", "skipped")
        return {
            "follow-ups too few or too many": abs(len(self.rows) - self.expected),
            "transactional messages that did not arrive": len(self._missing("transactional")),
            "marketing messages that arrived more than once": self._again("marketing"),
            "marketing messages that are missing and do not stand as unknown, failed or skipped": sum(
                row.state not in told or not row.reason for row in self._missing("marketing")
            ),
            "messages that arrived under another Message-ID, or that nobody asked for": sum(
                known.get(one.send_id) != one.message_id for one in self.taken
            ),
            "rows that say sent, of messages that did not arrive": sum(
                row.state == "sent" and not self._arrived[row.id] for row in self.rows
            ),
            "rows left queued or leased": sum(row.state in ("queued", "leased") for row in self.rows),
        }

    @property
    def fine(self) -> bool:
        limits = all(one.fine for one in (self.busy, self.rate) if one is not None)
        return not any(self.wrong.values()) and limits

    def table(self) -> list[tuple[str, str]]:
        """Names and figures."""
        rows = [("follow-ups", f"{len(self.rows):,}")]
        for stream in ("transactional", "marketing"):
            of = self._of(stream)
            states = Counter(f"{row.state}{f' ({row.reason})' if row.reason else ''}" for row in of)
            rows += [
                (f"{stream} messages", f"{len(of):,}"),
                ("- arrived", f"{sum(self._arrived[row.id] > 0 for row in of):,}"),
                ("- arrived again, under the same Message-ID", f"{self._again(stream):,}"),
                ("- in the outbox", ", ".join(f"{name}: {count:,}" for name, count in sorted(states.items()))),
            ]
        clicks = sum(row.rule == "next" for row in self.rows)
        rows.append(("of the transactional ones, after clicks", f"{clicks:,}"))
        rows += [(name, f"{count:,}") for name, count in self.wrong.items()]
        return [*rows, *self._limits()]

    def _limits(self) -> list[tuple[str, str]]:
        rows = []
        if self.busy is not None:
            one = self.busy
            rows = [
                (f"after the first 429 ({BUSY_WORKERS} workers): requests in flight", f"{one.late}"),
                ("- the last of them", f"{one.last:.2f} s later"),
                (f"- then none, of {BUSY} s", f"{one.quiet:.1f} s"),
                ("- messages taken in the end; of these twice", f"{one.sent:,}; {one.twice:,}"),
            ]
        if self.rate is not None:
            rate = self.rate
            off = (rate.overall / rate.wanted - 1) * 100
            rows += [
                (f"{WORKERS} workers, one limit of {RATE}/s, over {FOR} s", f"{rate.overall:.2f}/s ({off:+.1f} %)"),
                ("- in each second", f"{min(rate.seconds)} to {max(rate.seconds)}"),
                ("- the most in a second just after their start", f"{rate.warm}"),
            ]
        return rows


def document(result: Result) -> str:
    """The report in Markdown."""
    verdict = "Every promise has held." if result.fine else "**SOMETHING WENT WRONG: see below.**"
    kinds = Counter(result.troubles)
    killed = ", ".join(f"{what}: {count}" for what, count in sorted(kinds.items()))
    table = "".join(f"| {name} | {figure} |\n" for name, figure in result.table())
    return f"""# Sending chaos report

{verdict}

For {result.seconds:.0f} seconds the simulator played two providers. Rules answered its events with mail: half of it
transactional, half marketing, some of it after clicks. Meanwhile the web process, two workers and Postgres were killed
at random (seed {result.seed}; {killed}). A mail server in a process of its own, which took up to {SLOWEST:.0f} s for
each answer, noted every message that it took. Once nothing was left to send, its notes were compared with the outbox.

| | |
|---|---|
{table}
Machine: {platform.system()} {platform.machine()}, Python {platform.python_version()}. To repeat: `make chaos-sending`;
`make chaos-sending ARGS="--follow-ups 100 --no-clicks --no-limits"` is a short run. The exit status is 0 only if every
promise has held.
"""
