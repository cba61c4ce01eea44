"""What a chaos run came to: a table and a timeline, as a document and a picture."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, SCALE = 1500, 620, 2
LEFT, RIGHT, TOP, BOTTOM = 80, 80, 60, 130
_COME_AGAIN: Final = (408, 429)  # to every client: too slow, too many
_INK: Final = (40, 44, 52)
_GRID: Final = (225, 228, 232)
_TAKEN: Final = (46, 125, 50)
_FAILED: Final = (198, 40, 40)
_LAG: Final = (21, 101, 192)


@dataclass(frozen=True, slots=True)
class Second:
    """What happened up to a moment. `lag`: events that some handler has not seen; None: Postgres did not answer."""

    at: float
    taken: int
    failed: int
    lag: int | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that was done to the service."""

    at: float
    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Effects:
    """What a handler did: effects, and for how many events; events without one, and effects of events not stored."""

    effects: int
    events: int
    unseen: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The counts of a run.

    `invented`: stored, and not acknowledged though all was. `told_again`: deliveries that were refused with the "try
    again" code, and of these `stored_then`. `attempts` and `second_attempts` (of the `repeated` deliveries, which had
    been taken): by answer, 0 is none. `again`: the answers that mean "try again".
    """

    seconds: float
    seed: int
    sent: int
    acknowledged: int
    rows: int
    missing: int
    invented: int
    doubled: int
    told_again: int
    stored_then: int
    handlers: Mapping[str, Effects]
    dead_letters: int
    retries: int
    attempts: Mapping[int, int]
    repeated: int
    second_attempts: Mapping[int, int]
    again: frozenset[int]
    troubles: Sequence[Trouble]
    timeline: Sequence[Second]

    @property
    def wrong(self) -> Mapping[str, int]:
        """What must be 0, each for itself: no count makes up for another."""
        found = {
            "runs in which nothing was taken": int(self.acknowledged == 0),
            "events sent and never answered with success": self.sent - self.acknowledged,
            "events answered with success and missing": self.missing,
            'deliveries told to "try again" and missing': self.told_again - self.stored_then,
            "events stored that were not answered with success": self.invented,
            "events stored twice": self.doubled,
            "deliveries taken, sent again and not taken": self.repeated - _taken(self.second_attempts),
            "deliveries refused": self._refused(self.attempts) + self._refused(self.second_attempts),
            "dead letters": self.dead_letters,
            "retries left": self.retries,
        }
        for name, one in self.handlers.items():
            found |= {
                f"events that `{name}` has not seen": one.unseen,
                f"effects of `{name}` that happened again": one.effects - one.events,
                f"events that `{name}` has seen and that are missing": one.unknown,
            }
        return {what: count for what, count in found.items() if count}

    @property
    def fine(self) -> bool:
        return not self.wrong

    @property
    def told(self) -> str:
        """What is wrong, in a line."""
        return ", ".join(f"{count:,} {what}" for what, count in self.wrong.items())

    def _refused(self, answers: Mapping[int, int]) -> int:
        """Answers after which a provider would not come again, or would think that the service is broken."""
        known = {0, *self.again, *_COME_AGAIN}
        return sum(count for status, count in answers.items() if status not in known and not _success(status))


def _taken(answers: Mapping[int, int]) -> int:
    return sum(count for status, count in answers.items() if _success(status))


def _success(status: int) -> bool:
    return 200 <= status < 300


def document(result: Result, picture: str) -> str:
    """The report in Markdown."""
    kinds: dict[str, int] = {}
    for trouble in result.troubles:
        kinds[trouble.what] = kinds.get(trouble.what, 0) + 1
    verdict = "Nothing was lost and nothing happened twice." if result.fine else f"**WENT WRONG: {result.told}.**"
    handlers = "".join(
        f"| effects of `{name}` in the database | {one.effects:,} for {one.events:,} events |\n"
        for name, one in result.handlers.items()
    )
    return f"""# Chaos report

{verdict}

For {result.seconds:.0f} seconds the simulator played six providers against two web processes and two workers on one
Postgres, sending about a tenth of the deliveries twice and all of them out of order, and sending again what was not
answered with success. Meanwhile processes and Postgres were killed, frozen and restarted, and the network between them
and Postgres was cut, silenced and refused, at random (seed {result.seed}). A run of a minute or more has outages
that last longer than providers wait for an answer, so that they are told to try again. Then everything was left alone
until all was taken and handled and nothing moved any more, and counted.

| | |
|---|---|
| events answered with success | {result.acknowledged:,} |
| of these missing in `events` | {result.missing:,} |
| rows in `events` | {result.rows:,} |
| events stored twice | {result.doubled:,} |
{handlers}| dead letters | {result.dead_letters:,} |
| attempts by answer | {_answers(result.attempts)} |
| deliveries refused with "try again", then repeated and stored | {result.stored_then:,} of {result.told_again:,} |
| deliveries sent again although they were taken | {result.repeated:,} |
| attempts of these by answer | {_answers(result.second_attempts)} |
| troubles | {", ".join(f"{what}: {count}" for what, count in sorted(kinds.items()))} |

![Timeline]({picture})

Green: events taken per second. Red: attempts that failed or were told to come again, per second. Blue: events that some
handler had not seen yet. Marks below: what was done, and for how long.

Machine: {platform.system()} {platform.machine()}, Python {platform.python_version()}. To repeat: `make chaos`, or
`make chaos ARGS="--seconds 60"` for a short run; the exit status is 0 only if something was taken, nothing was lost,
doubled or refused, and no handler gave up on an event.
"""


def _answers(counts: Mapping[int, int]) -> str:
    return ", ".join(f"{status or 'no answer'}: {count:,}" for status, count in sorted(counts.items(), reverse=True))


def draw(result: Result, path: Path) -> None:
    """The timeline as a PNG."""
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    _Drawing(result, ImageDraw.Draw(image)).all()
    image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(path)


class _Drawing:
    def __init__(self, result: Result, canvas: ImageDraw.ImageDraw) -> None:
        self._result = result
        self._canvas = canvas
        self._end = max([second.at for second in result.timeline] or [1.0])
        self._font = ImageFont.load_default(13 * SCALE)
        self._title = ImageFont.load_default(18 * SCALE)

    def all(self) -> None:
        taken = _rates([(second.at, second.taken) for second in self._result.timeline])
        failed = _rates([(second.at, second.failed) for second in self._result.timeline])
        lag = [(second.at, float(second.lag)) for second in self._result.timeline if second.lag is not None]
        top = max([value for _, value in [*taken, *failed]] or [1.0]) * 1.1 or 1.0
        top_lag = max([value for _, value in lag] or [1.0]) * 1.1 or 1.0
        verdict = "nothing lost, nothing twice" if self._result.fine else "SOMETHING WENT WRONG"
        self._text(LEFT, 18, f"{self._result.acknowledged:,} events under chaos: {verdict}", self._title)
        legend = (("taken per second", _TAKEN), ("failed attempts per second", _FAILED), ("not handled yet", _LAG))
        for number, (words, colour) in enumerate(legend):
            self._text(LEFT + 640 + number * 210, 22, words, fill=colour)
        self._axes(top, top_lag)
        self._area(taken, top)
        self._line(failed, top, _FAILED)
        self._line(lag, top_lag, _LAG)
        self._troubles()

    def _x(self, at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / self._end

    def _y(self, value: float, top: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top

    def _axes(self, top: float, top_lag: float) -> None:
        for part in range(5):
            y = self._y(part, 4)
            self._canvas.line(self._scaled([(LEFT, y), (WIDTH - RIGHT, y)]), _GRID, SCALE)
            self._text(LEFT - 62, y - 8, f"{top * part / 4:,.0f}/s")
            self._text(WIDTH - RIGHT + 8, y - 8, f"{top_lag * part / 4:,.0f}", fill=_LAG)
        for part in range(11):
            self._text(self._x(self._end * part / 10) - 12, HEIGHT - BOTTOM + 8, f"{self._end * part / 10:.0f} s")

    def _area(self, points: Sequence[tuple[float, float]], top: float) -> None:
        if points:
            line = [(self._x(at), self._y(value, top)) for at, value in points]
            floor = HEIGHT - BOTTOM
            self._canvas.polygon(self._scaled([(line[0][0], floor), *line, (line[-1][0], floor)]), (200, 230, 201))
            self._canvas.line(self._scaled(line), _TAKEN, 2 * SCALE)

    def _line(self, points: Sequence[tuple[float, float]], top: float, colour: tuple[int, int, int]) -> None:
        if len(points) > 1:
            line = [(self._x(at), self._y(value, top)) for at, value in points]
            self._canvas.line(self._scaled(line), colour, 2 * SCALE)

    def _troubles(self) -> None:
        kinds = sorted({trouble.what for trouble in self._result.troubles})
        height = (BOTTOM - 40) / max(len(kinds), 1)
        for trouble in self._result.troubles:
            y = HEIGHT - BOTTOM + 34 + kinds.index(trouble.what) * height
            start = self._x(trouble.at)
            end = max(self._x(trouble.at + trouble.seconds), start + 3)
            box = self._scaled([(start, y), (end, y + height - 2)])
            self._canvas.rectangle([*box[0], *box[1]], _FAILED if "Postgres" in trouble.what else (120, 124, 132))
        for number, kind in enumerate(kinds):
            self._text(4, HEIGHT - BOTTOM + 33 + number * height, kind, ImageFont.load_default(9 * SCALE))

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont | None = None,
        fill: tuple[int, int, int] = _INK,
    ) -> None:
        self._canvas.text((x * SCALE, y * SCALE), text, fill=fill, font=font or self._font)

    def _scaled(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * SCALE, y * SCALE) for x, y in points]


def _rates(totals: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """Per second, from totals."""
    pairs = pairwise(totals)
    return [(after[0], (after[1] - before[1]) / max(after[0] - before[0], 0.001)) for before, after in pairs]
